"""What a backbone family has to offer, so that experts, decoders and trainers do not depend on which one it is.

Shapes: B batch, H W token grid, h w the tokens of one attention window (the grid where attention is global),
n = B times the number of windows, D and D' width of a block's input and output, P prompt width, N input size in
pixels, g side of the embedding's grid, m side of the last block's grid (g for SAM, g / 2 for SAM 2).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from torch import Tensor, nn

from samora_pipeline.errors import UsageError
from samora_pipeline.models.branch_products import by_differences
from samora_pipeline.models.lora import LowRank
from samora_pipeline.models.recomputation import Recomputing

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
"""of ImageNet, in [0,1]: what SAM 2, EfficientSAM and MobileSAM were trained with"""


class Features(NamedTuple):
    """What an encoder gives a decoder.

    ``embedding`` is (B,P,g,g). ``skips`` are features of finer grids, the finest first: (B,P,4g,4g) and (B,P,2g,2g)
    from SAM2; empty where a family has none (SAM).
    """

    embedding: Tensor
    skips: tuple[Tensor, ...] = ()


class TokenShape(NamedTuple):
    """The tokens after one block, (B,side,side,width)."""

    side: int
    width: int


class Encoder(Recomputing):
    """An image encoder made of blocks that may be exchanged for wrappers with the same input and output shapes.

    ``shapes`` are those of the tokens after each block; ``embed_dim`` is the width in front of the first.
    ``feature_sides`` are the sides of the embedding and of those finer features that a bootstrap learns to read.
    """

    blocks: nn.ModuleList
    embed_dim: int
    grid: int
    depth: int
    shapes: tuple[TokenShape, ...]
    feature_sides: tuple[int, ...]

    @abstractmethod
    def forward(self, x: Tensor, *, token_mask: Tensor | None = None, mask_token: Tensor | None = None) -> Features:
        """Encode images (B,3,N,N) in [0,1] to an embedding (B,P,g,g) and, where the family has them, finer features.

        ``token_mask`` and ``mask_token`` are those of ``forward_tokens``.
        """

    @abstractmethod
    def embed_patches(self, x: Tensor, token_mask: Tensor | None, mask_token: Tensor | None) -> Tensor:
        """Images (B,3,N,N) to the tokens that the first block takes, positions added."""

    def forward_tokens(
        self,
        x: Tensor,
        taps: Sequence[int],
        *,
        token_mask: Tensor | None = None,
        mask_token: Tensor | None = None,
        additions: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the tokens after some blocks, (B,side,side,width) each as ``shapes`` says, in the order of ``taps``.

        Later blocks are not run.

        Args:
            x: images (B,3,N,N) in [0,1].
            taps: block numbers, 1 for the first block, ``depth`` for the last.
            token_mask: (B,m,m) bool, true where the image is hidden from the encoder. The grid stays whole (SimMIM).
            mask_token: (D,), stands for hidden patches; it replaces the patch embedding before positions are added.
            additions: one for each block, of the shape of its input, added to it.

        Raises:
            ValueError: a tap outside 1..depth, or only one of ``token_mask`` and ``mask_token``.
        """
        if not taps or not all(1 <= tap <= self.depth for tap in taps):
            raise ValueError(f"taps {tuple(taps)} must be block numbers in 1..{self.depth}")
        if (token_mask is None) != (mask_token is None):
            raise ValueError("token_mask and mask_token belong together")
        tokens = self.embed_patches(x, token_mask, mask_token)
        found: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks[: max(taps)], start=1):
            tokens = self.run_block(block, tokens if additions is None else tokens + additions[number - 1])
            if number in taps:
                found[number] = tokens
        return tuple(found[tap] for tap in taps)


class BlockSteps(Protocol):
    """The steps of one kind of transformer block, cut open around its qkv product."""

    def window(self, block: Any) -> int:
        """Side of the attention window on the block's output grid in tokens; 0 where attention is global."""

    def enter(self, block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B,H,W,D) to the shortcut (B,H',W',D') and the input of qkv (n,h,w,D)."""

    def attend(self, block: Any, qkv: Tensor, size: tuple[int, int]) -> Tensor:
        """From the qkv product (n,h,w,3D') to the attention's output on the grid ``size``, (B,H',W',D')."""

    def is_fused(self, block: Any, windows: Tensor) -> bool:
        """Whether ``attend_branches`` is to be used for windows (n,h,w,...): on their device, with their size."""
        return False

    def attend_branches(
        self,
        block: Any,
        windows: Tensor,
        experts: Sequence[LowRank],
        size: tuple[int, int],
        dtype: torch.dtype | None,
    ) -> Tensor:
        """From the input of qkv (n,h,w,D) to the attention's outputs on the grid ``size``, (k,B,H',W',D').

        Of the base and of each expert; what they share is computed once. ``dtype`` of the products: ``branch_linear``.
        """
        raise TypeError(f"{type(self).__name__} attends branch by branch")

    def leave(self, block: Any, x: Tensor) -> Tensor:
        """Add the MLP's output, (B,H',W',D') to the same shape."""
        return x + block.mlp(block.norm2(x))

    def leave_branches(self, block: Any, x: Tensor) -> Tensor:
        """The same for base and experts, (k,B,H',W',D') to the same shape, by their differences."""
        with by_differences(len(x), x):
            return self.leave(block, x.flatten(0, 1)).view(x.shape)


class Backbone(ABC):
    """One member of a family: its sizes and how its parts are built with random weights.

    ``embed_dim`` is the token width D of the first block, ``depth`` the number of blocks, ``prompt_dim`` the width P
    of embeddings and prompts, ``native_size`` the input size in pixels that the published weights were trained at.
    ``small``: trained on a CPU in minutes, with the short settings of the trainers. ``own_decoder`` is the name of the
    decoder that is the family's own mask decoder and nothing more, ``steps`` says how the blocks are cut open.
    ``resized_tables``: whether position tables depend on the input size and are interpolated when public weights are
    read. ``unused_parts`` begin the names in public files of what a network for single images does not have, and
    ``other_parts`` the names of what is there for another purpose than ours, or in another form: tensors of such names
    may be on one side alone.
    ``trained_whole``: a base of ours without a public file, which stage 2 trains with everything else.
    """

    embed_dim: int
    depth: int
    prompt_dim: int
    native_size: int
    small: bool = False
    own_decoder: ClassVar[str]
    steps: ClassVar[BlockSteps]
    resized_tables: ClassVar[bool] = False
    unused_parts: ClassVar[tuple[str, ...]] = ()
    other_parts: ClassVar[tuple[str, ...]] = ()
    trained_whole: ClassVar[bool] = False

    @abstractmethod
    def grid(self, input_size: int) -> int:
        """Tokens along one side of the embedding; refuses sizes that do not fit (``E-MODEL-01``, ``check_size``)."""

    @abstractmethod
    def build_encoder(self, input_size: int) -> Encoder:
        """An image encoder for ``input_size`` pixels; positions are random too, for a base trained from scratch."""

    @abstractmethod
    def build_prompt_encoder(self, input_size: int) -> PromptEncoder:
        """A prompt encoder whose dense maps have the grid of ``input_size`` pixels, with segment_anything's interface.

        Its ``no_mask_embed`` is the embedding of having no mask prompt.
        """

    def build_mask_decoder(self, num_outputs: int) -> MaskDecoder | None:
        """The family's own mask decoder with one mask token per output map, of segment_anything's or sam2's class.

        None: the family has none, and needs a decoder of another kind.
        """
        return None

    def file_name(self, name: str) -> str:
        """The name in the family's public files of a tensor of ``assembly.public_names``."""
        return name

    def from_file(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of a public file, by its name there, as the network holds it; the shape stays."""
        return tensor

    def to_file(self, name: str, tensor: Tensor) -> Tensor:
        """The inverse of ``from_file``."""
        return tensor


@dataclass(frozen=True, kw_only=True)
class SamParts(Backbone):
    """Sizes of prompt encoder and mask decoder, which SAM and SAM 2 build alike from classes of their own packages."""

    prompt_dim: int = 256
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_hidden_dim: int = 256
    native_size: int = 1024
    small: bool = False
    prompt_encoder: ClassVar[Callable[..., PromptEncoder]]
    mask_decoder: ClassVar[Callable[..., MaskDecoder]]
    transformer: ClassVar[Callable[..., nn.Module]]

    def build_prompt_encoder(self, input_size: int) -> PromptEncoder:
        """See the base class."""
        grid = self.grid(input_size)
        return type(self).prompt_encoder(
            embed_dim=self.prompt_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(input_size, input_size),
            mask_in_chans=16,
        )

    def build_mask_decoder(self, num_outputs: int) -> MaskDecoder:
        """See the base class; ``predict_masks`` returns all maps."""
        return type(self).mask_decoder(
            transformer_dim=self.prompt_dim,
            transformer=type(self).transformer(
                depth=self.decoder_depth,
                embedding_dim=self.prompt_dim,
                num_heads=self.decoder_heads,
                mlp_dim=self.decoder_mlp_dim,
            ),
            num_multimask_outputs=num_outputs - 1,
            iou_head_depth=3,
            iou_head_hidden_dim=self.iou_hidden_dim,
        )


TINY_PARTS: dict[str, Any] = {
    **{"prompt_dim": 64, "decoder_heads": 4, "decoder_mlp_dim": 256, "iou_hidden_dim": 64},
    **{"native_size": 128, "small": True},
}
"""what the small members of both families share"""


class Standardised(nn.Module):
    """Images (B,3,N,N) in [0,1] brought to mean 0 and deviation 1 of ImageNet's pixels."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(PIXEL_STD).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B,3,N,N) to the same shape."""
        return (x - self.mean) / self.deviation


def enlarged(mask: Tensor, factor: int) -> Tensor:
    """Each entry of (B,m,m) as a square of ``factor`` x ``factor``."""
    return mask.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def check_size(input_size: int, multiple: int) -> None:
    """Refuse an input size in pixels that is no positive multiple of ``multiple``.

    Raises:
        UsageError: ``E-MODEL-01``.
    """
    if input_size <= 0 or input_size % multiple:
        nearest = max(1, round(input_size / multiple)) * multiple
        raise UsageError("E-MODEL-01", multiple=multiple, nearest=nearest, found=f"{input_size} px")
