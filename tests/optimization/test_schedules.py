from __future__ import annotations

import math
from typing import Any

import pytest

from samora_pipeline.optimization.optimizers import (
    WarmupUnit,
    linear_rate,
    square_root_rate,
    warmup_cosine,
    warmup_iterations,
    warmup_polynomial,
)


def test_warmup_reaches_the_base_and_decay_starts_there() -> None:
    rates = [warmup_polynomial(t, base=2.0, warmup=10, iterations=100) for t in range(1, 111)]
    assert rates[9] == 2.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[0] == pytest.approx(0.2)
    assert rates[109] == pytest.approx(0.0, abs=1e-12)
    assert warmup_polynomial(500, base=2.0, warmup=10, iterations=100) == 0.0


def test_samed_exponent() -> None:
    """SAMed's code: lr * (1 - (it - 250) / 18600) ** 0.9 after 250 iterations of warm-up."""
    settings: dict[str, Any] = {"base": 0.005, "warmup": 250, "iterations": 18600, "exponent": 0.9}
    assert warmup_polynomial(9000, **settings) == pytest.approx(0.005 * (1 - 8750 / 18600) ** 0.9)
    assert warmup_polynomial(125, **settings) == pytest.approx(0.0025)


def test_without_warmup_the_first_iteration_decays_already() -> None:
    assert warmup_polynomial(1, base=1.0, warmup=0, iterations=4) == 0.75
    assert warmup_cosine(1, base=1.0, warmup=0, iterations=2) == pytest.approx(0.5)


def test_cosine_falls_from_the_base_to_zero() -> None:
    settings: dict[str, Any] = {"base": 3.0, "warmup": 20, "iterations": 120}
    assert warmup_cosine(5, **settings) == pytest.approx(0.75)
    assert warmup_cosine(20, **settings) == 3.0
    assert warmup_cosine(70, **settings) == pytest.approx(1.5)
    assert warmup_cosine(45, **settings) == pytest.approx(3.0 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert warmup_cosine(120, **settings) == pytest.approx(0.0, abs=1e-12)
    assert warmup_cosine(130, **settings) == pytest.approx(0.0, abs=1e-12)


def test_rules_of_the_batch() -> None:
    assert square_root_rate(0.075, 512) == pytest.approx(1.697, abs=5e-4)
    assert square_root_rate(0.075, 4096) == pytest.approx(0.3 * 4096 / 256)  # where both rules of SimCLR meet
    assert linear_rate(1.5e-4, 512) == pytest.approx(3e-4)


@pytest.mark.parametrize(
    ("value", "unit", "expected"), [(0.05, "fraction", 780), (4, "epochs", 780), (30, "steps", 30), (0, "epochs", 0)]
)
def test_a_warmup_has_one_unit(value: float, unit: WarmupUnit, expected: int) -> None:
    """80 epochs of 195 steps, SAMora's image level."""
    assert warmup_iterations(value, unit, steps_per_epoch=195, epochs=80) == expected


def test_a_warmup_is_never_longer_than_the_run() -> None:
    assert warmup_iterations(30, "epochs", steps_per_epoch=3, epochs=2) == 6
