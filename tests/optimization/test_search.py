from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from samora_pipeline.optimization.search import Minimum, minimise

LOWEST = (0.6, -0.9, 0.3)
Point = tuple[float, ...]


def bowl(point: Point) -> float:
    return sum((a - b) ** 2 for a, b in zip(point, LOWEST, strict=True))


def valley(point: Point) -> float:
    """Two hundred times as steep across as along."""
    x, y = point[0] - 0.5, point[1] + 0.5
    return 100 * (x - y) ** 2 + 0.5 * (x + y) ** 2


def search(objective: Callable[[Point], float], start: Point, evaluations: int, seed: int = 0) -> Minimum:
    return minimise(objective, start, bound=1.5, step=0.5, evaluations=evaluations, seed=seed)


def test_forty_evaluations_come_closer_than_random_points_do() -> None:
    found, random = [], []
    for seed in range(40):
        found.append(search(bowl, (1 / 3,) * 3, 40, seed).value)
        drawn = np.random.default_rng(seed).uniform(-1.5, 1.5, (40, 3))
        random.append(min(bowl(tuple(point)) for point in drawn))
    assert np.median(found) < 0.5 * np.median(random)
    assert np.median(found) < 0.1 * bowl((1 / 3,) * 3)


def test_a_narrow_valley_is_followed_because_the_covariance_adapts() -> None:
    values = [search(valley, (-1.0, 1.0), 600, seed).value for seed in range(10)]
    assert np.median(values) < 1e-8


def test_the_budget_is_kept_the_start_is_first_and_the_best_is_returned() -> None:
    tried: list[Point] = []

    def counting(point: Point) -> float:
        tried.append(point)
        return bowl(point)

    result = search(counting, (0.1, 0.2, 0.3), 40)
    assert len(tried) == 40
    assert tried[0] == (0.1, 0.2, 0.3)
    assert result.value == min(map(bowl, tried)) == bowl(result.point)
    assert result.start_value == bowl((0.1, 0.2, 0.3))


def test_candidates_stay_inside() -> None:
    tried: list[Point] = []

    def outwards(point: Point) -> float:
        tried.append(point)
        return -sum(point)

    result = search(outwards, (1.0, 1.0, 1.0), 60)
    assert max(abs(number) for point in tried for number in point) <= 1.5
    assert result.point == (1.5, 1.5, 1.5)


def test_the_seed_decides_what_is_tried() -> None:
    first, again, other = (search(bowl, (0.0, 0.0, 0.0), 20, seed) for seed in (4, 4, 5))
    assert first == again
    assert first != other


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_never_chosen(bad: float) -> None:
    result = search(lambda point: bad if point[0] > 0 else bowl(point), (-0.5, 0.0, 0.0), 60)
    assert result.point[0] <= 0
    assert result.value < bowl((-0.5, 0.0, 0.0))


def test_one_evaluation_is_the_start() -> None:
    assert search(bowl, (0.5, 0.5, 0.5), 1).point == (0.5, 0.5, 0.5)
