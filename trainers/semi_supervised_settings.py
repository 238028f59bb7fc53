"""Settings of published ways to learn from slices without labels in stage 2: frozen, complete, and free of torch.

Chosen by ``--set finetune.consistency.kind=ua_mt``. Constants are those of the methods' public 2-D code; where there is
none (DTC), of the code for volumes. A ramp counts in shares of the training, which these codes count in iterations.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from samora_pipeline.errors import UsageError
from trainers.consistency_settings import ConsistencySettings


@dataclass(frozen=True)
class SemiSupervisedSettings:
    """``weight`` of what is learned without labels, reached at the share ``ramp`` of the epochs.

    Before, at the share t of the ramp, it is exp(-5 (1 - t)^2) of it (arXiv 1610.02242).

    Raises:
        UsageError: ``E-SET-04`` a ramp that is no share, or a negative weight.
    """

    weight: float = 0.1  # SSL4MIS, MC-Net and SS-Net on ACDC
    ramp: float = 1.0  # iteration // 150 over 200, of 30,000 iterations

    def __post_init__(self) -> None:
        if not 0 < self.ramp <= 1 or self.weight < 0:
            raise UsageError("E-SET-04", found=f"ramp {self.ramp}, weight {self.weight}")

    def rise(self, share: float) -> float:
        """From 0.0067 to 1, when this share of the epochs is over."""
        return math.exp(-5 * (1 - min(share / self.ramp, 1)) ** 2)

    def weight_at(self, share: float) -> float:
        """The weight when this share of the epochs is over."""
        return self.weight * self.rise(share)


@dataclass(frozen=True)
class UAMTSettings(SemiSupervisedSettings):
    """Uncertainty-aware mean teacher (Yu et al., arXiv 1907.07034), constants of its code.

    ``decay``: see ``ConsistencySettings``. ``passes`` of the averaged network with other noise give the entropy;
    pixels count where it is below ``first`` (at the end ``last``) of the largest one. Noise of deviation ``noise`` is
    cut at ``largest_noise``.
    """

    kind: Literal["ua_mt"] = field(default="ua_mt", kw_only=True)
    decay: float = 0.99
    passes: int = 8
    noise: float = 0.1
    largest_noise: float = 0.2
    first: float = 0.75
    last: float = 1.0


@dataclass(frozen=True)
class DTCSettings(SemiSupervisedSettings):
    """Dual-task consistency (Luo et al., arXiv 2009.04448), constants of its code for volumes.

    ``distance``: weight of the signed distances of labelled slices; ``steepness`` of the step from a distance to a
    probability.
    """

    kind: Literal["dtc"] = field(default="dtc", kw_only=True)
    weight: float = 1.0
    distance: float = 0.3
    steepness: float = 1500.0


@dataclass(frozen=True)
class MCNetSettings(SemiSupervisedSettings):
    """Mutual consistency of two decoders (Wu et al., arXiv 2103.02911); ``temperature`` of sharpening from its code."""

    kind: Literal["mc_net"] = field(default="mc_net", kw_only=True)
    temperature: float = 0.1


@dataclass(frozen=True)
class SSNetSettings(SemiSupervisedSettings):
    """Smoothness and class separation (SS-Net, Wu et al., arXiv 2208.09278), constants of its 2-D code.

    ``search`` and ``reach``: lengths of the first and of the adversarial change of a slice. ``separation``: weight of
    the contrast with ``memory`` features of each class, at ``pixels`` of each slice (ours; there at all).
    """

    kind: Literal["ss_net"] = field(default="ss_net", kw_only=True)
    search: float = 10.0
    reach: float = 6.0
    separation: float = 0.1
    memory: int = 32
    pixels: int = 256


@dataclass(frozen=True)
class CutMixSettings(ConsistencySettings):
    """``ConsistencySettings``, and boxes are also exchanged between slices without labels, as in UniMatch.

    UniMatch (Yang et al., arXiv 2208.09910) learns strongly varied slices with a box of another, both without labels,
    from what is guessed of each before they are mixed.
    """

    kind: Literal["cutmix"] = field(default="cutmix", kw_only=True)


Unlabelled = ConsistencySettings | CutMixSettings | UAMTSettings | DTCSettings | MCNetSettings | SSNetSettings
"""the ways in which slices without labels take part in stage 2"""
UNLABELLED: dict[str, type[Unlabelled]] = {
    "copy_paste": ConsistencySettings,
    "cutmix": CutMixSettings,
    "ua_mt": UAMTSettings,
    "dtc": DTCSettings,
    "mc_net": MCNetSettings,
    "ss_net": SSNetSettings,
}
"""by the name that ``finetune.consistency.kind`` takes"""
