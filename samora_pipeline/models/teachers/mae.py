"""MAE (arXiv 2111.06377), the teacher of the patch level: a masked autoencoder under its public parameter names.

Shapes: B batch, C channels of a stored slice, N side of a slice, T the network's input size, P side of a patch,
g = T / P, L = g * g tokens, K visible tokens, D and D' width of encoder and decoder.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.models.recomputation import Recomputing
from samora_pipeline.models.teachers.teacher import RGB, FeatureShape, Teacher, TeacherDesign

NORM_EPSILON = 1e-6
_LONGEST_WAVE = 10_000.0


class Attention(nn.Module):
    """Multi-head self-attention with a fused, biased qkv product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B,L,D) to the same shape."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block with an MLP four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        layers = {"fc1": nn.Linear(width, 4 * width), "gelu": nn.GELU(), "fc2": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        """(B,L,D) to the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbedding(nn.Module):
    """Patches to tokens by one convolution; the public files call it ``proj``."""

    def __init__(self, patch_size: int, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B,C,N,N) to (B,L,D), row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


def initialise(module: nn.Module) -> None:
    """Start linear layers as MAE does: Xavier uniform, no offset; the patch embedding counts as a linear layer."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.view(len(part.weight), -1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def position_table(width: int, grid: int, native_grid: int) -> Tensor:
    """MAE's fixed sine and cosine positions with a row of zeros for the class token, (1,1+g*g,D).

    The first half of the width encodes the column, the second the row. On another grid than the native one the
    coordinates are those of the same places in the image, so that the table is exact and not interpolated.
    """
    places = (torch.arange(grid, dtype=torch.float64) + 0.5) * native_grid / grid - 0.5
    quarter = width // 4
    rates = _LONGEST_WAVE ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = places[:, None] * rates
    waves = torch.cat((angles.sin(), angles.cos()), dim=1)
    columns, rows = waves.expand(grid, -1, -1), waves[:, None].expand(-1, grid, -1)
    table = torch.cat((columns, rows), dim=2).flatten(0, 1)
    return torch.cat((torch.zeros(1, width, dtype=torch.float64), table))[None].float()


_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class MaeDesign(TeacherDesign):
    """Sizes of one masked autoencoder, and how it is built."""

    embed_dim: int
    depth: int
    heads: int
    decoder_dim: int
    decoder_depth: int
    decoder_heads: int
    patch_size: int = 16
    native_size: int = 224
    level = Level.PATCH

    def build(self, input_size: int | None = None) -> "MaeTeacher":
        """See the base class."""
        return MaeTeacher(self, self.size(input_size, self.patch_size))


class MaeTeacher(Recomputing, Teacher):
    """Encoder and decoder.

    Its features: ``tokens`` (B,g,g,D) behind the last norm, and ``tokens_18_of_24``, without that norm, after three
    quarters of the blocks (block 18 of ViT-L, which DMAE distils). All patches are visible, the class token is dropped.
    """

    level = Level.PATCH
    mean: Tensor
    std: Tensor

    def __init__(self, design: MaeDesign, input_size: int) -> None:
        super().__init__()
        width, narrow = design.embed_dim, design.decoder_dim
        self.input_size = input_size
        self.patch_size = design.patch_size
        self.grid = input_size // design.patch_size
        self.shapes = dict.fromkeys(("tokens", "tokens_18_of_24"), FeatureShape(width, self.grid))
        native_grid = design.native_size // design.patch_size
        self.patch_embed = PatchEmbedding(design.patch_size, RGB, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = _fixed(position_table(width, self.grid, native_grid))
        self.blocks = nn.ModuleList(Block(width, design.heads) for _ in range(design.depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.decoder_embed = nn.Linear(width, narrow)
        self.mask_token = nn.Parameter(torch.empty(1, 1, narrow))
        self.decoder_pos_embed = _fixed(position_table(narrow, self.grid, native_grid))
        self.decoder_blocks = nn.ModuleList(Block(narrow, design.decoder_heads) for _ in range(design.decoder_depth))
        self.decoder_norm = nn.LayerNorm(narrow, eps=NORM_EPSILON)
        self.decoder_pred = nn.Linear(narrow, design.patch_size**2 * RGB)
        for name, values in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, RGB, 1, 1), persistent=False)
        initialise(self)
        for token in (self.cls_token, self.mask_token):
            nn.init.normal_(token, std=0.02)

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract ImageNet's mean and divide by its standard deviation, channel by channel."""
        return (images - self.mean) / self.std

    def intensities(self, images: Tensor) -> Tensor:
        """The reverse of ``normalise``, one channel for viewing: (B,3,T,T) to (B,1,T,T) in [0,1].

        The mean over channels: reconstructions of gray slices are tinted otherwise.
        """
        return (images * self.std + self.mean).mean(dim=1, keepdim=True).clamp(0, 1)

    def features(self, images: Tensor, name: str) -> Tensor:
        """Features (B,g,g,D) of images (B,C,N,N) in [0,1], by the name in ``shapes``."""
        width, grid = self.shapes[name]
        if name == "tokens":
            tokens = self.encode(self.prepare(images), None)
        else:
            tokens = self._embed(self.prepare(images), None)
            for block in self.blocks[: max(1, 3 * len(self.blocks) // 4)]:
                tokens = block(tokens)
        return tokens[:, 1:].reshape(-1, grid, grid, width)

    def visible_features(self, images: Tensor, hidden: Tensor, visible: int | None = None) -> Tensor:
        """Features (B,K,D) behind the last norm where only the visible patches are seen, row by row.

        ``visible_tokens`` picks the same places from a student's grid. ``visible``: see ``visible_places``.
        """
        return self.encode(self.prepare(images), hidden, visible)[:, 1:]

    def encode(self, prepared: Tensor, hidden: Tensor | None, visible: int | None = None) -> Tensor:
        """Prepared images (B,3,T,T) to class and visible tokens (B,1+K,D), behind the last norm.

        Args:
            prepared: the images as ``prepare`` returns them.
            hidden: (B,g,g) bool, true where a patch is hidden; the same number in every sample. None: none is.
            visible: see ``visible_places``.

        Raises:
            ValueError: numbers of hidden patches that differ.
        """
        tokens = self._embed(prepared, hidden, visible)
        for block in self.blocks:
            tokens = self.run_block(block, tokens)
        return self.norm(tokens)

    def decode(self, latent: Tensor, hidden: Tensor) -> Tensor:
        """Class and visible tokens (B,1+K,D) to the pixels of all patches (B,g,g,P*P*3), channels innermost."""
        narrow = self.decoder_embed(latent)
        places = visible_places(hidden, latent.shape[1] - 1)[..., None].expand(-1, -1, narrow.shape[-1])
        empty = self.mask_token.to(narrow.dtype).expand(len(narrow), self.grid**2, -1)
        tokens = torch.cat((narrow[:, :1], empty.scatter(1, places, narrow[:, 1:])), dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            tokens = self.run_block(block, tokens)
        pixels = self.decoder_pred(self.decoder_norm(tokens))
        return pixels[:, 1:].reshape(-1, self.grid, self.grid, pixels.shape[-1])

    def _embed(self, prepared: Tensor, hidden: Tensor | None, visible: int | None = None) -> Tensor:
        tokens = self.patch_embed(prepared) + self.pos_embed[:, 1:]
        if hidden is not None:
            tokens = _pick(tokens, visible_places(hidden, visible))
        first = (self.cls_token + self.pos_embed[:, :1]).to(tokens.dtype)
        return torch.cat((first.expand(len(tokens), -1, -1), tokens), dim=1)


def visible_places(hidden: Tensor, visible: int | None = None) -> Tensor:
    """Numbers of the visible patches, (B,K), ascending, from a mask (B,g,g) that is true where a patch is hidden.

    ``visible`` is K, where the caller knows it from how the mask was drawn; else the samples' are counted and compared,
    for which the host waits for the device.

    Raises:
        ValueError: when samples hide different numbers of patches.
    """
    flat = hidden.flatten(1)
    if visible is None:
        counts = set((~flat).sum(dim=1).tolist())
        if len(counts) > 1:
            raise ValueError(f"samples of a batch show {sorted(counts)} patches; all must show the same number")
        visible = counts.pop() if counts else 0
    return flat.to(torch.uint8).argsort(dim=1, stable=True)[:, :visible]


def visible_tokens(tokens: Tensor, hidden: Tensor, visible: int | None = None) -> Tensor:
    """The tokens (B,K,D) of a grid (B,g,g,D) at the visible places of ``hidden`` (B,g,g); see ``visible_places``."""
    return _pick(tokens.flatten(1, 2), visible_places(hidden, visible))


def _pick(tokens: Tensor, places: Tensor) -> Tensor:
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))


def _fixed(table: Tensor) -> nn.Parameter:
    # On the meta device the table has to follow the others there.
    return nn.Parameter(table.to(torch.empty(0).device), requires_grad=False)


MAE_VIT_L = MaeDesign(embed_dim=1024, depth=24, heads=16, decoder_dim=512, decoder_depth=8, decoder_heads=16)
# 0.6 M with the decoder, on the grid of samora_tiny.
MAE_TINY = MaeDesign(embed_dim=96, depth=4, heads=3, decoder_dim=48, decoder_depth=2, decoder_heads=3, native_size=128)
