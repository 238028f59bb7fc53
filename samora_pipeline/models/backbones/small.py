"""A small backbone of our own, trained whole from few labels: SAM's blocks on a convolutional stem.

Why not a shrunk SAM: what a small network learns from four scans depends on fine features near the pixels. The stem
halves the side three times (convolutions, max pooling, as in a U-Net); its maps before each halving are the skips.
The blocks are SAM's own, with ``attn.qkv``, on tokens of 8 x 8 pixels; each starts near the identity, so that the
network begins as a U-Net and attention adds to it.

Shapes: B batch, N input size in pixels, g = N / 8 token grid, D token width (also the prompt width P).
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from segment_anything.modeling import PromptEncoder
from segment_anything.modeling.image_encoder import Block
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.models.backbones.backbone import Backbone, Encoder, Features, TokenShape, check_size
from samora_pipeline.models.backbones.sam import SamBlockSteps
from samora_pipeline.models.global_norm import GlobalBatchNorm

_RGB = 3
_GROUPS = 8
_MOMENTUM = 0.05
"""of batch norms, as in ``models.unet``"""
_FLAT = 1e-4
"""added to a slice's deviation, so that a slice of one value stays finite"""
_QUIET = 0.1
"""share of torch's random weights that the last layers of attention and MLP start with"""


class SmallEncoder(Encoder):
    """Stem, blocks, neck: the embedding (B,D,g,g) and the stem's maps of N, N/2 and N/4 pixels, finest first.

    Each slice is brought to mean 0 and deviation 1 at the entrance.
    """

    def __init__(self, design: "SmallBackbone", input_size: int) -> None:
        super().__init__()
        width = design.embed_dim
        self.grid, self.embed_dim, self.depth = design.grid(input_size), width, design.depth
        self.shapes = (TokenShape(self.grid, width),) * self.depth
        self.stem = nn.ModuleList(convolutions(*pair) for pair in pairwise((_RGB, *design.stem_widths, width)))
        # The finer maps are too near the pixels to be told to reconstruct them.
        self.feature_sides = (self.grid,)
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid, self.grid, width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList(_block(design, self.grid) for _ in range(design.depth))
        self.neck = nn.Sequential(nn.GroupNorm(_GROUPS, width), nn.Conv2d(width, width, 1))
        # As in ``models.unet``: convolutions are faster by a third on a CPU.
        self.stem.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, *, token_mask: Tensor | None = None, mask_token: Tensor | None = None) -> Features:
        """Encode images (B,3,N,N) to features; see the class."""
        skips, deepest = self._stem(_without(x, token_mask))
        tokens = self._tokens(deepest, token_mask, mask_token)
        for block in self.blocks:
            tokens = block(tokens)
        embedding = deepest + self.neck(tokens.permute(0, 3, 1, 2))
        return Features(embedding, skips)

    def embed_patches(self, x: Tensor, token_mask: Tensor | None, mask_token: Tensor | None) -> Tensor:
        """Images (B,3,N,N) to tokens (B,g,g,D)."""
        _, deepest = self._stem(_without(x, token_mask))
        return self._tokens(deepest, token_mask, mask_token)

    def _stem(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        features, maps = _standardised(x).contiguous(memory_format=torch.channels_last), []
        for level, layers in enumerate(self.stem):
            features = layers(functional.max_pool2d(features, 2) if level else features)
            maps.append(features)
        return tuple(maps[:-1]), maps[-1]

    def _tokens(self, deepest: Tensor, token_mask: Tensor | None, mask_token: Tensor | None) -> Tensor:
        tokens = deepest.permute(0, 2, 3, 1)
        if token_mask is not None and mask_token is not None:
            tokens = torch.where(token_mask[..., None], mask_token.to(tokens.dtype), tokens)
        return tokens + self.pos_embed


@dataclass(frozen=True, kw_only=True)
class SmallBackbone(Backbone):
    """Sizes of the small backbone; it has no mask decoder of SAM's, and no public weights."""

    embed_dim: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 2.0
    stem_widths: tuple[int, ...] = (16, 32, 64)
    native_size: int = 128
    small: bool = True
    own_decoder = "skips"
    steps = SamBlockSteps()
    trained_whole = True

    @property
    def prompt_dim(self) -> int:  # type: ignore[override]
        """The width of embeddings, that of the tokens."""
        return self.embed_dim

    def grid(self, input_size: int) -> int:
        """Tokens along one side; the stem halves the side as often as it has widths, the decoder once more.

        Raises:
            UsageError: ``E-MODEL-01`` a side that cannot be halved so often.
        """
        check_size(input_size, 2 << len(self.stem_widths))
        return input_size >> len(self.stem_widths)

    def build_encoder(self, input_size: int) -> SmallEncoder:
        """See the base class."""
        return SmallEncoder(self, input_size)

    def build_prompt_encoder(self, input_size: int) -> PromptEncoder:
        """See the base class."""
        side = self.grid(input_size)
        return PromptEncoder(self.prompt_dim, (side, side), (input_size, input_size), mask_in_chans=16)


def convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions with batch norm, (B,inputs,h,w) to (B,outputs,h,w)."""
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), GlobalBatchNorm(outputs, momentum=_MOMENTUM)]
        layers.append(nn.LeakyReLU(0.01, inplace=True))
    return nn.Sequential(*layers)


def _block(design: SmallBackbone, grid: int) -> Block:
    block = Block(
        dim=design.embed_dim,
        num_heads=design.heads,
        mlp_ratio=design.mlp_ratio,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        input_size=(grid, grid),
    )
    with torch.no_grad():
        for last in (block.attn.proj, block.mlp.lin2):
            last.weight.mul_(_QUIET)
            last.bias.zero_()
    return block


def _standardised(x: Tensor) -> Tensor:
    mean, deviation = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    return (x - mean) / (deviation + _FLAT)


def _without(x: Tensor, token_mask: Tensor | None) -> Tensor:
    """Images whose hidden patches are blank: the stem's convolutions look beyond their own token."""
    if token_mask is None:
        return x
    factor = x.shape[-1] // token_mask.shape[-1]
    hidden = token_mask.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return x.masked_fill(hidden[:, None], 0.0)


SAMORA_SMALL = SmallBackbone()
