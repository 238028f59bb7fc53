"""Learning rates as pure functions of the iteration, which counts from 1."""

from __future__ import annotations

import math


def warmup_polynomial(iteration: int, *, base: float, warmup: int, iterations: int, exponent: float = 1.0) -> float:
    """Eq. 11 of SAMora: linear warm-up, then base * (1 - (T - WP) / MI) ** exponent.

    The printed equation has exponent 1; SAMed's and H-SAM's code has 0.9. As printed, the warm-up is not taken off
    MI, so the last of MI iterations still has base * (WP / MI) ** exponent.

    Args:
        iteration: T, from 1.
        base: I_lr, the rate at the end of the warm-up.
        warmup: WP, in iterations; 0 for none.
        iterations: MI, all iterations of the run.
        exponent: of the decay.
    """
    if iteration <= warmup:
        return base * iteration / warmup
    left = 1.0 - (iteration - warmup) / iterations
    return float(base * max(0.0, left) ** exponent)


def warmup_cosine(iteration: int, *, base: float, warmup: int, iterations: int) -> float:
    """Linear warm-up over ``warmup`` iterations, then half a cosine down to 0 at ``iterations`` (SimCLRv2, MAE)."""
    if iteration <= warmup:
        return base * iteration / warmup
    share = min(1.0, (iteration - warmup) / max(1, iterations - warmup))
    return base * 0.5 * (1.0 + math.cos(math.pi * share))
