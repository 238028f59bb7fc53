"""TransUNet (Chen et al., arXiv 2102.04306): a ResNet, a vision transformer on its last maps, a decoder with skips.

Written from the behaviour of the public code (github.com/Beckschen/TransUNet). Its ResNet is not quite the one that
its ImageNet-21k weights were trained in: shortcuts are normalised channel by channel, max pooling is not padded,
strided convolutions are padded on both sides, and the variance of weights has 1e-5 added. ``as_trained`` takes the
trained form instead.

Shapes: B batch, C channels of a slice, N input size in pixels, g = N / 16 token grid, D width of tokens, K outputs.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.errors import UsageError
from samora_pipeline.models.global_norm import GlobalBatchNorm
from samora_pipeline.models.samora import RGB
from samora_pipeline.models.shared_dropout import SharedDropout

PATCH = 16
_GROUPS = 32
_NORM_EPS = 1e-6
_TRAINED_EPS = 1e-5
_EXPANSION = 4
_DROPOUT = 0.1
_ROOT = 64
"""channels of the ResNet's first convolution"""


class TransUNet(nn.Module):
    """Images (B,C,N,N) to logits (B,K,N,N); 105.28 M parameters with 9 outputs at 224 px.

    One channel is repeated to three, three are taken as they are, others go through a 1x1 convolution first.
    ``depths``: units of the ResNet's three stages. ``width``, ``heads``, ``layers``, ``hidden``: of the transformer.
    ``decoder``: channels of the four steps up. Dropout: 0.1 in the embedding and the transformer's MLPs.

    Raises:
        UsageError: ``E-MODEL-01`` the input size is no multiple of 16.
    """

    def __init__(
        self,
        in_channels: int,
        num_outputs: int,
        input_size: int,
        depths: Sequence[int] = (3, 4, 9),
        width: int = 768,
        heads: int = 12,
        layers: int = 12,
        hidden: int = 3072,
        decoder: Sequence[int] = (256, 128, 64, 16),
        as_trained: bool = False,
    ) -> None:
        super().__init__()
        if input_size % PATCH:
            nearest = max(PATCH, round(input_size / PATCH) * PATCH)
            raise UsageError("E-MODEL-01", found=f"{input_size} pixels", multiple=PATCH, nearest=nearest)
        is_rgb = in_channels in (1, RGB)
        self.adapter = nn.Identity() if is_rgb else nn.Conv2d(in_channels, RGB, 1, bias=False)
        self.resnet = ResNet(depths, as_trained)
        self.patches = nn.Conv2d(self.resnet.widths[-1], width, 1)
        self.positions = nn.Parameter(torch.zeros(1, (input_size // PATCH) ** 2, width))
        self.drop = SharedDropout(_DROPOUT)
        self.blocks = nn.ModuleList(_block(width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width, _NORM_EPS)
        first = 2 * decoder[0]
        skips = (*reversed(self.resnet.widths[:-1]), 0)
        self.bridge = _convolution(width, first)
        self.steps = nn.ModuleList(
            nn.Sequential(_convolution(below + skip, own), _convolution(own, own))
            for (below, own), skip in zip(pairwise((first, *decoder)), skips, strict=True)
        )
        self.head = nn.Conv2d(decoder[-1], num_outputs, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Segment images (B,C,N,N) to logits (B,K,N,N)."""
        adapted = self.adapter(images)
        last, skips = self.resnet(adapted.expand(-1, RGB, -1, -1))
        maps = self.bridge(self.encode(last))
        for step, skip in zip(self.steps, (*reversed(skips), None), strict=True):
            maps = functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=True)
            maps = step(maps if skip is None else torch.cat((maps, skip), dim=1))
        logits: Tensor = self.head(maps)
        return logits

    def encode(self, maps: Tensor) -> Tensor:
        """The ResNet's last maps (B,.,g,g) to the transformer's (B,D,g,g)."""
        embedded = self.patches(maps)
        tokens = self.drop(embedded.flatten(2).transpose(1, 2) + self.positions)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens).transpose(1, 2).reshape(embedded.shape)


class ResNet(nn.Module):
    """The first three stages of a ResNet v1 with group norm and standardised weights; strides 4, 8 and 16."""

    def __init__(self, depths: Sequence[int], as_trained: bool) -> None:
        super().__init__()
        self.as_trained = as_trained
        stages = [_ROOT * _EXPANSION * 2**level for level in range(len(depths))]
        self.widths = (_ROOT, *stages)
        self.root = StandardisedConv(RGB, _ROOT, 7, 2, as_trained)
        self.root_norm = nn.GroupNorm(_GROUPS, _ROOT, _TRAINED_EPS if as_trained else _NORM_EPS)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    Unit(before if unit == 0 else own, own, 1 + (unit == 0 and level > 0), as_trained)
                    for unit in range(units)
                )
            )
            for level, (units, (before, own)) in enumerate(zip(depths, pairwise((_ROOT, *stages)), strict=True))
        )

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images (B,3,N,N) to the last maps, and those of half, quarter and eighth size that lie before them."""
        maps = functional.relu(self.root_norm(self.root(images)))
        skips = [maps]
        padded = functional.pad(maps, (0, 1, 0, 1)) if self.as_trained else maps
        maps = functional.max_pool2d(padded, 3, 2)
        for level, stage in enumerate(self.stages):
            maps = stage(maps)
            # Where max pooling is not padded a row and a column are missing.
            missing = images.shape[-1] // (4 * 2**level) - maps.shape[-1]
            skips.append(functional.pad(maps, (0, missing, 0, missing)))
        return skips.pop(), skips


class Unit(nn.Module):
    """A bottleneck: 1x1, 3x3, 1x1, each normalised, and a shortcut that is convolved where size or width change."""

    def __init__(self, inputs: int, outputs: int, stride: int, as_trained: bool) -> None:
        super().__init__()
        inner = outputs // _EXPANSION
        eps = _TRAINED_EPS if as_trained else _NORM_EPS
        self.convolutions = nn.ModuleList(
            (
                StandardisedConv(inputs, inner, 1, 1, as_trained),
                StandardisedConv(inner, inner, 3, stride, as_trained),
                StandardisedConv(inner, outputs, 1, 1, as_trained),
            )
        )
        self.norms = nn.ModuleList(nn.GroupNorm(_GROUPS, width, eps) for width in (inner, inner, outputs))
        self.shortcut: nn.Module | None = None
        if stride > 1 or inputs != outputs:
            groups = _GROUPS if as_trained else outputs
            norm = nn.GroupNorm(groups, outputs, _TRAINED_EPS)
            self.shortcut = nn.Sequential(StandardisedConv(inputs, outputs, 1, stride, as_trained), norm)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B,inputs,h,w) to (B,outputs,h/stride,w/stride)."""
        own = maps
        for place, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            own = norm(convolution(functional.relu(own) if place else own))
        shortcut = maps if self.shortcut is None else self.shortcut(maps)
        return functional.relu(own + shortcut)


class StandardisedConv(nn.Conv2d):
    """A convolution without bias whose weight has mean 0 and deviation 1 in each output channel."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, as_trained: bool) -> None:
        # TensorFlow's padding puts the odd pixel of a strided convolution right and below.
        self.before = (size - stride) // 2 if as_trained else size // 2
        self.behind = size - stride - self.before if as_trained else size // 2
        self.eps = 1e-8 if as_trained else 1e-5
        super().__init__(inputs, outputs, size, stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that torch gives it
        """(B,inputs,h,w) to (B,outputs,h/stride,w/stride)."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) / (variance + self.eps).sqrt()
        padded = functional.pad(input, (self.before, self.behind, self.before, self.behind)) if self.behind else input
        return functional.conv2d(padded, weight, None, self.stride)


def _block(width: int, heads: int, hidden: int) -> nn.TransformerEncoderLayer:
    """A block of the transformer, which drops nothing but in its MLP."""
    block = nn.TransformerEncoderLayer(
        width, heads, hidden, 0.0, functional.gelu, _NORM_EPS, batch_first=True, norm_first=True
    )
    block.dropout, block.dropout2 = SharedDropout(_DROPOUT), SharedDropout(_DROPOUT)  # type: ignore[assignment]
    return block


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), GlobalBatchNorm(outputs), nn.ReLU())
