"""What a backbone family has to offer, so that experts, decoders and trainers need not know which one it is.

Shapes: B batch, H W token grid, h w the tokens of one attention window (the grid where attention is global),
n = B times the number of windows, D and D' width of a block's input and output, P prompt width, g side of the grid.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from segment_anything.modeling import MaskDecoder, PromptEncoder
from torch import Tensor, nn


class Features(NamedTuple):
    """What an encoder gives a decoder.

    ``embedding`` is (B,P,g,g). ``skips`` are features of finer grids, the finest first: (B,P,4g,4g) and (B,P,2g,2g)
    from SAM2; empty where a family has none (SAM).
    """

    embedding: Tensor
    skips: tuple[Tensor, ...] = ()


class Encoder(nn.Module):
    """An image encoder made of blocks that may be exchanged for wrappers."""

    blocks: nn.ModuleList
    embed_dim: int
    grid: int
    depth: int

    @abstractmethod
    def forward(self, x: Tensor) -> Features:
        """Encode images (B,3,N,N) to an embedding (B,P,g,g) and, where the family has them, finer features."""

    @abstractmethod
    def forward_tokens(
        self,
        x: Tensor,
        taps: Sequence[int],
        *,
        token_mask: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the tokens after some blocks (1 is the first), (B,g,g,D) each."""


class BlockSteps(Protocol):
    """The steps of one kind of transformer block, cut open around its qkv product."""

    def window(self, block: Any) -> int:
        """Side of the attention window on the block's output grid in tokens; 0 where attention is global."""
        ...

    def enter(self, block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B,H,W,D) to the shortcut (B,H',W',D') and the input of qkv (n,h,w,D)."""
        ...

    def attend(self, block: Any, product: Tensor, size: tuple[int, int]) -> Tensor:
        """From the qkv product (n,h,w,3D') to the attention's output on the grid ``size``, (B,H',W',D')."""
        ...

    def leave(self, block: Any, x: Tensor) -> Tensor:
        """The MLP with its norm and its residual, (B,H',W',D') to the same shape."""
        ...


class Backbone(Protocol):
    """One member of a family: its sizes and how its parts are built with random weights."""

    @property
    def embed_dim(self) -> int:
        """Token width D of the first block."""
        ...

    @property
    def depth(self) -> int:
        """Number of blocks."""
        ...

    @property
    def prompt_dim(self) -> int:
        """Width P of embeddings and prompts."""
        ...

    @property
    def native_size(self) -> int:
        """Input size in pixels that the published weights were trained at."""
        ...

    @property
    def steps(self) -> BlockSteps:
        """How its blocks are cut open."""
        ...

    def grid(self, input_size: int) -> int:
        """Tokens along one side of the embedding; refuses sizes that do not fit (``E-MODEL-01``)."""
        ...

    def build_encoder(self, input_size: int) -> Encoder:
        """An image encoder for ``input_size`` pixels."""
        ...

    def build_prompt_encoder(self, input_size: int) -> PromptEncoder:
        """A prompt encoder for ``input_size`` pixels, with the interface of segment_anything's."""
        ...

    def build_mask_decoder(self, num_outputs: int) -> MaskDecoder:
        """A mask decoder with ``num_outputs`` mask tokens, with the interface of segment_anything's."""
        ...
