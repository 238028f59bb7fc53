"""Eq. 11 of the paper, pinned by numbers worked out by hand from the printed formula."""

from __future__ import annotations

import pytest

from samora_pipeline.optimization.optimizers import warmup_polynomial

# Table 8, SAMora: base 5e-3, warm-up 25, 20 epochs of ceil(2211 / 32) = 70 iterations.
SAMORA = {"base": 5e-3, "warmup": 25, "iterations": 1400}
# Appendix A.1 as printed: 250 steps of warm-up, 18,600 iterations.
APPENDIX = {"base": 5e-3, "warmup": 250, "iterations": 18600}


@pytest.mark.parametrize(
    ("settings", "iteration", "rate"),
    [
        (SAMORA, 1, 2e-4),  # T I / WP = 5e-3 / 25
        (SAMORA, 5, 1e-3),
        (SAMORA, 25, 5e-3),  # T = WP belongs to the first line
        (SAMORA, 26, 5e-3 * 1399 / 1400),
        (SAMORA, 725, 2.5e-3),  # half of MI after the warm-up
        (SAMORA, 1400, 5e-3 * 25 / 1400),  # not zero: WP is not taken off MI
        (APPENDIX, 100, 2e-3),
        (APPENDIX, 250, 5e-3),
        (APPENDIX, 9550, 2.5e-3),
    ],
)
def test_equation_11(settings: dict[str, float], iteration: int, rate: float) -> None:
    got = warmup_polynomial(
        iteration, base=settings["base"], warmup=int(settings["warmup"]), iterations=int(settings["iterations"])
    )
    assert got == pytest.approx(rate, rel=1e-12)
