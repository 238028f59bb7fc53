"""Options of the exchangeable parts of this package, free of torch, so that a mistyped one is refused at once.

A part of one's own keeps its options in its class (``Options``).
"""

from dataclasses import dataclass
from typing import Any, Literal

Residual = Literal["delta", "paper"]


@dataclass(frozen=True)
class NoOptions:
    """The options of a part that has none."""


@dataclass(frozen=True)
class GateOptions:
    """Of ``models.fusions.mole.MoLE``, explained there."""

    residual: Residual = "delta"


@dataclass(frozen=True)
class StepwiseOptions:
    """Of ``models.fusions.stepwise.StepwiseFusion``, explained there: ``order`` of the levels and ``residual``."""

    order: Literal["2-1-1", "1-2-1", "1-1-2"] = "2-1-1"
    residual: Residual = "delta"


@dataclass(frozen=True)
class NoiseSettings:
    """Of ``slices.noise.Mixture``: shares of (Gaussian, replacement, coarse), strengths, share of replaced pixels.

    ``sigma`` is the range of the standard deviation for intensities in [0,1]; replacements come from a 5 x 5 window.
    """

    shares: tuple[float, float, float] = (0.7, 0.2, 0.1)
    sigma: tuple[float, float] = (0.02, 0.25)
    replaced: float = 0.1


FUSION_OPTIONS: dict[str, type[Any]] = {
    "hl_attn": StepwiseOptions,
    "hl_attn_self": StepwiseOptions,
    "lac": NoOptions,
    "mole": GateOptions,
    "lorahub": NoOptions,
    "hcat": StepwiseOptions,
}
"""by the name of the fusion"""
NOISE_OPTIONS: dict[str, type[Any]] = {"mixture": NoiseSettings}
"""by the name of the noise"""
