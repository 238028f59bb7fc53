"""MobileSAM (Zhang et al. 2023, arXiv 2306.14289): TinyViT-5M that learned SAM's features, with SAM's own decoder.

TinyViT (arXiv 2207.10666) has four stages of widths 64, 128, 160 and 320. The first is made of convolutions; the other
three of transformer blocks with windows of 7, 14 and 7 tokens, a table of biases by distance, and a depth-wise
convolution between attention and MLP. Three merging layers change the width, and the first two halve the grid. Here
each is the beginning of the block behind it, so that a block has one width, of its attention and of what it gives.

Public files (github.com/ChaoningZhang/MobileSAM) keep q, k and v of a head side by side in the rows of qkv; here all of
q comes first, then k, then v, as in SAM (``MobileSamBackbone.from_file``). Their norms of convolutions are batch norms,
which always use their stored statistics here.

Shapes: B batch, N input size in pixels, g = N / 16 grid of the embedding, H W token grid, D and D' width of a block's
input and output; see BlockSteps for those of a block.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.models.backbones.backbone import (
    BlockSteps,
    Encoder,
    Features,
    SamParts,
    Standardised,
    TokenShape,
    check_size,
    enlarged,
)

FIRST_STRIDE, EMBEDDING_STRIDE = 4, 16
STRIDES = 2, 2, 1  # of the merging layers
HEAD_DIM, EXPANSION = 32, 4


class FrozenBatchNorm(nn.Module):
    """A batch norm with the statistics of its training, in fine-tuning too: a few slices must not replace them.

    Its tensors have the names of torch's. (B,C,H,W) to the same shape.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class Expansion(nn.Module):
    """An inverted bottleneck with a residual (MBConv), (B,C,H,W) to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = EXPANSION * channels
        self.conv1 = _convolution(channels, inner, 1)
        self.conv2 = _convolution(inner, inner, 3, groups=inner)
        self.conv3 = _convolution(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        inner = functional.gelu(self.conv2(functional.gelu(self.conv1(x))))
        return functional.gelu(x + self.conv3(inner))


class Merging(nn.Module):
    """From one stage to the next, (B,H,W,D) to (B,H/stride,W/stride,D')."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, 1)
        self.conv2 = _convolution(outputs, outputs, 3, stride=stride, groups=outputs)
        self.conv3 = _convolution(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        maps = functional.gelu(self.conv1(x.permute(0, 3, 1, 2)))
        return self.conv3(functional.gelu(self.conv2(maps))).permute(0, 2, 3, 1)


class TinyAttention(nn.Module):
    """The parts of a window's attention: norm, projections, and a bias for each head and distance, (heads,L)."""

    bias_index: Tensor

    def __init__(self, dim: int, window: int) -> None:
        super().__init__()
        self.num_heads = dim // HEAD_DIM
        self.norm, self.qkv, self.proj = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(self.num_heads, window**2))
        self.register_buffer("bias_index", _distances(window), persistent=False)


class TinyMlp(nn.Module):
    """Norm and two layers, (...,D) to the same shape."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.fc2(functional.gelu(self.fc1(self.norm(x))))


class TinyBlock(nn.Module):
    """A transformer block of TinyViT, behind the merging layer where it is the first of its stage."""

    def __init__(self, dim: int, window: int, merge: Merging | None) -> None:
        super().__init__()
        self.window_size = window
        self.merge = merge
        self.attn = TinyAttention(dim, window)
        self.local_conv = _convolution(dim, dim, 3, groups=dim)
        self.mlp = TinyMlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B,H,W,D) to (B,H',W',D')."""
        shortcut, windows = STEPS.enter(self, x)
        attended = STEPS.attend(self, self.attn.qkv(windows), (shortcut.shape[1], shortcut.shape[2]))
        return STEPS.leave(self, shortcut + attended)


class MobileSamBlockSteps(BlockSteps):
    """TinyViT's block, cut open around its qkv product."""

    def window(self, block: TinyBlock) -> int:
        """Side of the attention window in tokens."""
        return block.window_size

    def enter(self, block: TinyBlock, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B,H,W,D), merged where a stage begins, and their windows; what pads them is normalised too."""
        shortcut = x if block.merge is None else block.merge(x)
        windows, _ = window_partition(shortcut, block.window_size)
        return shortcut, block.attn.norm(windows)

    def attend(self, block: TinyBlock, qkv: Tensor, size: tuple[int, int]) -> Tensor:
        """Attention with a bias by distance, projected, back on the grid and without padding."""
        attention, side = block.attn, block.window_size
        n, h, w, _ = qkv.shape
        q, k, v = qkv.reshape(n, h * w, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = attention.attention_biases[:, attention.bias_index].to(q.dtype)
        heads = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        output = attention.proj(heads.transpose(1, 2).reshape(n, h, w, -1))
        padded = (-(-size[0] // side) * side, -(-size[1] // side) * side)
        return window_unpartition(output, side, padded, size)

    def leave(self, block: TinyBlock, x: Tensor) -> Tensor:
        """The depth-wise convolution, then the MLP added."""
        mixed = block.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return mixed + block.mlp(mixed)


STEPS = MobileSamBlockSteps()


class MobileSamEncoder(Encoder):
    """TinyViT and SAM's neck, open in the middle: what comes before the transformer blocks is the patch embedding."""

    def __init__(self, design: "MobileSamBackbone", input_size: int) -> None:
        super().__init__()
        self.grid, self.embed_dim, self.depth = design.grid(input_size), design.widths[0], design.depth
        self.standardised = Standardised()
        self.patch_embed = nn.Sequential(
            _convolution(3, self.embed_dim // 2, 3, stride=2),
            nn.GELU(),
            _convolution(self.embed_dim // 2, self.embed_dim, 3, stride=2),
        )
        self.expansions = nn.Sequential(*(Expansion(self.embed_dim) for _ in range(design.depths[0])))
        self.blocks = nn.ModuleList(design.blocks())
        self.neck = _neck(design.widths[-1], design.prompt_dim)
        self.feature_sides = (self.grid,)
        self.shapes = tuple(
            TokenShape(input_size // stride, width)
            for stride, width, depth in zip((8, 16, 16), design.widths[1:], design.depths[1:], strict=True)
            for _ in range(depth)
        )

    def forward(self, x: Tensor, *, token_mask: Tensor | None = None, mask_token: Tensor | None = None) -> Features:
        """Encode images (B,3,N,N) to embeddings (B,P,g,g)."""
        (tokens,) = self.forward_tokens(x, (self.depth,), token_mask=token_mask, mask_token=mask_token)
        return Features(self.neck(tokens.permute(0, 3, 1, 2)))

    def embed_patches(self, x: Tensor, token_mask: Tensor | None, mask_token: Tensor | None) -> Tensor:
        """Images (B,3,N,N) to tokens (B,4g,4g,D); what is hidden is hidden in squares of 16 pixels.

        Convolutions look beyond their own token, so hidden pixels are blanked first.
        """
        x = self.standardised(x)
        if token_mask is None or mask_token is None:
            return self.expansions(self.patch_embed(x)).permute(0, 2, 3, 1)
        x = x.masked_fill(enlarged(token_mask, EMBEDDING_STRIDE)[:, None], 0)
        tokens = self.expansions(self.patch_embed(x)).permute(0, 2, 3, 1)
        hidden = enlarged(token_mask, EMBEDDING_STRIDE // FIRST_STRIDE)[..., None]
        return torch.where(hidden, mask_token.to(tokens.dtype), tokens)


@dataclass(frozen=True, kw_only=True)
class MobileSamBackbone(SamParts):
    """TinyViT's sizes, stage by stage; the first has no windows. Nothing in the files depends on the input size."""

    widths: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    windows: tuple[int, ...] = (0, 7, 14, 7)
    own_decoder = "samed"
    steps = STEPS
    other_parts = ("image_encoder.norm_head.", "image_encoder.head.")
    prompt_encoder, mask_decoder, transformer = PromptEncoder, MaskDecoder, TwoWayTransformer

    @property
    def embed_dim(self) -> int:  # type: ignore[override] # the first of another field
        """Width of the tokens in front of the first transformer block."""
        return self.widths[0]

    @property
    def depth(self) -> int:  # type: ignore[override] # the sum of another field
        """Number of transformer blocks."""
        return sum(self.depths[1:])

    def grid(self, input_size: int) -> int:
        """Side of the embedding's grid; the size must be a multiple of 16 (``E-MODEL-01``)."""
        check_size(input_size, EMBEDDING_STRIDE)
        return input_size // EMBEDDING_STRIDE

    def build_encoder(self, input_size: int) -> MobileSamEncoder:
        """See the base class."""
        return MobileSamEncoder(self, input_size)

    def blocks(self) -> Iterator[TinyBlock]:
        """The transformer blocks of all stages."""
        stages = zip(pairwise(self.widths), self.depths[1:], self.windows[1:], STRIDES, strict=True)
        for (before, width), depth, window, stride in stages:
            for number in range(depth):
                yield TinyBlock(width, window, None if number else Merging(before, width, stride))

    def file_name(self, name: str) -> str:
        """See the base class."""
        part, _, rest = name.removeprefix("image_encoder.").partition(".")
        if part == "patch_embed":
            return f"image_encoder.patch_embed.seq.{rest}"
        if part == "expansions":
            return f"image_encoder.layers.0.blocks.{rest}"
        if part != "blocks":
            return name
        number, _, rest = rest.partition(".")
        places = [(stage, place) for stage, depth in enumerate(self.depths) if stage for place in range(depth)]
        stage, place = places[int(number)]
        if rest.startswith("merge."):
            return f"image_encoder.layers.{stage - 1}.downsample.{rest.removeprefix('merge.')}"
        return f"image_encoder.layers.{stage}.blocks.{place}.{rest}"

    def from_file(self, name: str, tensor: Tensor) -> Tensor:
        """See the base class: the rows of qkv, from those of each head to all of q, all of k, all of v."""
        return (
            torch.unflatten(tensor, 0, (-1, 3, HEAD_DIM)).transpose(0, 1).flatten(0, 2) if ".qkv." in name else tensor
        )

    def to_file(self, name: str, tensor: Tensor) -> Tensor:
        """See the base class."""
        return (
            torch.unflatten(tensor, 0, (3, -1, HEAD_DIM)).transpose(0, 1).flatten(0, 2) if ".qkv." in name else tensor
        )


def _convolution(inputs: int, outputs: int, side: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias and its norm; the names are those of the files."""
    layer = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(c=layer, bn=FrozenBatchNorm(outputs)))


def _neck(width: int, outputs: int) -> nn.Sequential:
    """SAM's, (B,D,g,g) to (B,P,g,g)."""
    return nn.Sequential(
        nn.Conv2d(width, outputs, 1, bias=False),
        LayerNorm2d(outputs),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        LayerNorm2d(outputs),
    )


def _distances(window: int) -> Tensor:
    """For each pair of a window's L tokens the number of their distance, rows apart times side plus columns, (L,L)."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    places = torch.stack((rows, columns), -1).flatten(0, 1)
    apart = (places[:, None] - places).abs()
    return apart[..., 0] * window + apart[..., 1]


MOBILE_SAM = MobileSamBackbone()
