"""ModelSpec: everything that is needed to build a network again, and nothing about how it was trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from samora_pipeline.contracts.level import LEVELS, Level

FusionOrder = Literal["2-1-1", "1-2-1", "1-1-2"]
Residual = Literal["delta", "paper"]
Scope = Literal["block", "attention"]


@dataclass(frozen=True)
class FusionSpec:
    """How the experts of a block are fused.

    ``name`` is one of ``models.fusions.catalog``; ``lac`` and ``lorahub`` join weights, look at nothing else here and
    run one branch, and ``mole`` has no order. ``order`` names the rank of image, patch and pixel level (Table 4): in
    "2-1-1" patch and pixel are fused first, then the image level. ``residual``: ``delta`` fuses E_i - F and adds the
    query's own delta; ``paper`` is Eq. 6-8 literally. ``scope``: ``block`` fuses whole block outputs (Eq. 2-7),
    ``attention`` fuses attention residuals and runs the MLP once.
    """

    name: str = "hl_attn"
    order: FusionOrder = "2-1-1"
    residual: Residual = "delta"
    scope: Scope = "block"


@dataclass(frozen=True)
class ModelSpec:
    """Parts and sizes of one network.

    ``levels`` are the experts on each block; with one level there is no fusion (``fusion`` is None) and the expert's
    own LoRA output is the block's output. ``levels`` may be empty (the plain backbone). ``num_outputs`` counts output
    maps: K + 1 for K exclusive classes with background, or one per region. ``in_channels`` is the number of
    channels of a stored slice (1 is repeated to 3, 3 is taken as is, any other goes through a trained 1x1 adapter).
    ``block_adapters``: SAM-Adapter's, in front of every block.
    """

    backbone: str
    input_size: int
    num_outputs: int
    in_channels: int = 1
    levels: tuple[Level, ...] = LEVELS
    lora_rank: int = 4
    fusion: FusionSpec | None = field(default_factory=FusionSpec)
    decoder: str = "samed"
    block_adapters: bool = False
