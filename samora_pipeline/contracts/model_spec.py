"""Everything that is needed to build a network again, and nothing about how it was trained.

``NetworkSpec`` is the union of both descriptions; JSON distinguishes them by ``kind``.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Literal

from samora_pipeline.errors import UsageError


class Level(StrEnum):
    """What an expert learned from: the whole image, patches of it, or single pixels.

    The order of definition is the hierarchy from high to low; HL-Attn takes the higher level as the query.
    """

    IMAGE = "image"
    PATCH = "patch"
    PIXEL = "pixel"


LEVELS: tuple[Level, ...] = tuple(Level)


Scope = Literal["block", "attention"]
Volume = tuple[int, int, int]
"""voxels of a whole volume: planes (along the slice axis), rows, columns"""
DecoderStages = Literal["mean", "last"]


@dataclass(frozen=True)
class FusionSpec:
    """How the experts of a block are fused.

    ``name`` is one of ``models.catalog`` or ``package.module:Class``. ``scope``: ``block`` fuses whole block
    outputs (Eq. 2-7), ``attention`` fuses attention residuals and runs the MLP once; fusions that join weights run one
    branch, whatever the scope. ``options`` are the fusion's own, checked by ``models.catalog.fusion_options``.
    """

    name: str = "hl_attn"
    scope: Scope = "block"
    options: dict[str, Any] = field(default_factory=dict, hash=False)


def slices_seen(neighbours: int) -> int:
    """How many slices are seen at once with so many ``neighbours`` on each side.

    Raises:
        UsageError: ``E-SET-04`` a negative number.
    """
    if neighbours < 0:
        raise UsageError("E-SET-04", what="neighbours are 0 or more slices on each side", found=str(neighbours))
    return 2 * neighbours + 1


@dataclass(frozen=True)
class ModelSpec:
    """Parts and sizes of a network around SAM's or SAM 2's encoder.

    ``levels`` are the experts on each block; with one level there is no fusion (``fusion`` is None) and the expert's
    own LoRA output is the block's output. ``levels`` may be empty (the plain backbone). ``num_outputs`` counts output
    maps: K + 1 for K exclusive classes with background, or one per region. ``in_channels`` is the number of
    channels of an image (1 is repeated to 3, 3 is taken as is, any other goes through a trained 1x1 adapter): those of
    a stored slice and of its ``neighbours`` on each side (2.5-D).
    ``block_adapters``: SAM-Adapter's, in front of every block. ``decoder_stages``: what a decoder with several stages
    predicts with, the ``mean`` of their logits or the ``last`` (as every run that does not say it).
    """

    kind: Literal["sam"] = field(default="sam", kw_only=True)
    backbone: str
    input_size: int
    num_outputs: int
    in_channels: int = 1
    levels: tuple[Level, ...] = LEVELS
    lora_rank: int = field(kw_only=True)
    fusion: FusionSpec | None = field(default_factory=FusionSpec)
    decoder: str = "samed"
    block_adapters: bool = False
    decoder_stages: DecoderStages = "last"
    neighbours: int = 0

    # SAM sees slices.
    volume: ClassVar[None] = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The axes of an input behind its channels."""
        return (self.input_size, self.input_size)

    @property
    def input_text(self) -> str:
        """The input in words."""
        return f"{self.input_size} px"


@dataclass(frozen=True)
class ModuleSpec:
    """Any module from images (B,C,N,N) in [0,1] to logits (B,K,h,w), without a base of its own.

    ``network`` is one of ``models.module.NETWORKS`` or ``package.module:Class``. It is called with ``options`` and
    with those of ``in_channels`` C, ``num_outputs`` K and ``input_size`` N that it accepts. ``neighbours``: see
    ``ModelSpec``. One of whole volumes goes from (B,C,*volume) to logits (B,K,*volume) and is also given ``volume``;
    ``input_size`` is then its longest side.
    """

    kind: Literal["module"] = field(default="module", kw_only=True)
    network: str
    input_size: int
    num_outputs: int
    in_channels: int = 1
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    neighbours: int = 0
    volume: Volume | None = None

    # There are no blocks for experts, and so neither fusion nor decoder.
    levels: ClassVar[tuple[Level, ...]] = ()
    fusion: ClassVar[None] = None
    decoder: ClassVar[str] = ""
    lora_rank: ClassVar[int] = 0

    @property
    def backbone(self) -> str:
        """The network itself."""
        return self.network

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The axes of an input behind its channels."""
        return self.volume or (self.input_size, self.input_size)

    @property
    def input_text(self) -> str:
        """The input in words."""
        return f"{self.input_size} px" if self.volume is None else f"{' x '.join(map(str, self.volume))} voxels"


NetworkSpec = ModelSpec | ModuleSpec
