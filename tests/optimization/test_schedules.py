from __future__ import annotations

import math

import pytest

from samora_pipeline.optimization.schedules import warmup_cosine, warmup_polynomial


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
    settings = {"base": 0.005, "warmup": 250, "iterations": 18600, "exponent": 0.9}
    assert warmup_polynomial(9000, **settings) == pytest.approx(0.005 * (1 - 8750 / 18600) ** 0.9)
    assert warmup_polynomial(125, **settings) == pytest.approx(0.0025)


def test_without_warmup_the_first_iteration_decays_already() -> None:
    assert warmup_polynomial(1, base=1.0, warmup=0, iterations=4) == 0.75
    assert warmup_cosine(1, base=1.0, warmup=0, iterations=2) == pytest.approx(0.5)


def test_cosine_falls_from_the_base_to_zero() -> None:
    settings = {"base": 3.0, "warmup": 20, "iterations": 120}
    assert warmup_cosine(5, **settings) == pytest.approx(0.75)
    assert warmup_cosine(20, **settings) == 3.0
    assert warmup_cosine(70, **settings) == pytest.approx(1.5)
    assert warmup_cosine(45, **settings) == pytest.approx(3.0 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert warmup_cosine(120, **settings) == pytest.approx(0.0, abs=1e-12)
    assert warmup_cosine(130, **settings) == pytest.approx(0.0, abs=1e-12)
