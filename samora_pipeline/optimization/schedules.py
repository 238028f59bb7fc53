"""Learning rates as pure functions of the iteration, which counts from 1, and of the batch."""

import math
from typing import Literal

WarmupUnit = Literal["fraction", "epochs", "steps"]

_LINEAR_RULE_BATCH = 256


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


def square_root_rate(base: float, batch: int) -> float:
    """SimCLRv2's rule for the learning rate: base * sqrt(batch), 1.697 for 0.075 at a batch of 512."""
    return base * math.sqrt(batch)


def linear_rate(base: float, batch: int) -> float:
    """MAE's rule for the learning rate: base * batch / 256, 3e-4 for 1.5e-4 at a batch of 512."""
    return base * batch / _LINEAR_RULE_BATCH


def warmup_iterations(value: float, unit: WarmupUnit, *, steps_per_epoch: int, epochs: int) -> int:
    """Return the length of a warm-up in iterations, never longer than the run.

    Args:
        value: of the warm-up; 0 for none.
        unit: ``fraction`` of the run, ``epochs``, or ``steps``.
        steps_per_epoch: iterations of one epoch.
        epochs: of the run.
    """
    iterations = steps_per_epoch * epochs
    factor = {"fraction": iterations, "epochs": steps_per_epoch, "steps": 1}[unit]
    return min(iterations, round(value * factor))
