"""Minimising a function of a few numbers that has no gradient, in a few dozen evaluations."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Point = npt.NDArray[np.float64]

_TARGET_SUCCESS = 2 / 11
_SUCCESS_RATE = 1 / 12
_SUCCESS_THRESHOLD = 0.44


class Minimum(NamedTuple):
    """The best point that was tried, its value, and the value at the start."""

    point: tuple[float, ...]
    value: float
    start_value: float


def minimise(
    objective: Callable[[tuple[float, ...]], float],
    start: Sequence[float],
    *,
    bound: float,
    step: float,
    evaluations: int,
    seed: int,
) -> Minimum:
    """Search the box [-bound, bound] around zero with the (1+1)-CMA-ES (Igel, Hansen and Roth, 2007, section 3).

    One candidate at a time is drawn around the best point; the step length follows the share of successes, the
    covariance the steps that succeeded. Candidates outside are moved to the border. The same seed gives the same
    candidates; a value that is not finite is worse than any other.

    Args:
        objective: called ``evaluations`` times, first at the start.
        start: the first point, inside the box.
        bound: half the width of the box.
        step: the standard deviation of the first candidates.
        evaluations: at least 1.
        seed: of what is drawn.
    """
    generator = np.random.default_rng(seed)
    best = np.asarray(start, dtype=np.float64)
    state = _Shape(len(best), step)
    value = start_value = _finite(objective(tuple(best.tolist())))
    for _ in range(evaluations - 1):
        candidate = np.clip(best + state.draw(generator), -bound, bound)
        tried = _finite(objective(tuple(candidate.tolist())))
        state.learn(candidate - best, success=tried <= value)
        if tried <= value:
            best, value = candidate, tried
    return Minimum(tuple(best.tolist()), value, start_value)


class _Shape:
    """Step length and covariance of what is drawn; constants as the source sets them for n numbers."""

    def __init__(self, count: int, step: float) -> None:
        self.step = step
        self.success = _TARGET_SUCCESS
        self.damping = 1 + count / 2
        self.path_rate = 2 / (count + 2)
        self.covariance_rate = 2 / (count**2 + 6)
        self.path: Point = np.zeros(count)
        self.covariance: Point = np.eye(count)

    def draw(self, generator: np.random.Generator) -> Point:
        return self.step * (np.linalg.cholesky(self.covariance) @ generator.standard_normal(len(self.path)))

    def learn(self, change: Point, *, success: bool) -> None:
        scaled = change / self.step
        self.success += _SUCCESS_RATE * (success - self.success)
        self.step *= math.exp((self.success - _TARGET_SUCCESS) / (1 - _TARGET_SUCCESS) / self.damping)
        if not success:
            return
        fresh = self.path_rate * (2 - self.path_rate)
        self.path = (1 - self.path_rate) * self.path
        added = np.zeros_like(self.covariance)
        if self.success < _SUCCESS_THRESHOLD:
            self.path = self.path + math.sqrt(fresh) * scaled
        else:
            added = fresh * self.covariance
        added = added + np.outer(self.path, self.path)
        self.covariance = (1 - self.covariance_rate) * self.covariance + self.covariance_rate * added


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
