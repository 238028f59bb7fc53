"""The SAM 2 family: Hiera encoders with their feature pyramid, from sam2's own classes, without the video modules.

SAM 2 and SAM 2.1 have the same image path. Its builder fixes three masks and builds the memory of videos with it, so
the parts are built here for any input size and any number of outputs. Parameter names are those of the public files
below the module that holds them there (``Sam2Backbone.file_name``).

Shapes: B batch, N input size in pixels, g = N / 16 grid of the embedding, m = N / 32 grid of the last block,
D width of the first stage, P prompt width; see BlockSteps for those of a block.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from sam2.modeling.backbones.hieradet import Hiera, MultiScaleBlock, do_pool
from sam2.modeling.backbones.image_encoder import FpnNeck
from sam2.modeling.backbones.utils import window_partition, window_unpartition
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from samora_pipeline.models.backbones.backbone import (
    PIXEL_MEAN,
    PIXEL_STD,
    TINY_PARTS,
    BlockSteps,
    Encoder,
    Features,
    SamParts,
    TokenShape,
    check_size,
    enlarged,
)

FIRST_STRIDE = 4
EMBEDDING_STRIDE = 16
LAST_STRIDE = 32
VIDEO_PARTS = ("memory_", "maskmem_tpos_enc", "mask_downsample.", "no_mem_pos_enc", "no_obj_", "obj_ptr_")


class Sam2Encoder(Encoder):
    """Hiera and its neck, open in the middle.

    Images come in [0,1] and are normalised here with the statistics that SAM 2 was trained with (ImageNet's).
    ``no_mem_embed`` stands for the memory that an image without a video has; sam2's image predictor adds it too.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, trunk: Hiera, neck: FpnNeck, input_size: int) -> None:
        super().__init__()
        self.patch_embed: nn.Module = trunk.patch_embed
        self.pos_embed: nn.Parameter = trunk.pos_embed
        self.pos_embed_window: nn.Parameter = trunk.pos_embed_window
        self.blocks: nn.ModuleList = trunk.blocks
        self.neck: nn.Module = neck
        self.no_mem_embed = nn.Parameter(torch.empty(1, 1, neck.d_model))
        nn.init.trunc_normal_(self.no_mem_embed, std=0.02)
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(-1, 1, 1), persistent=False)
        self.embed_dim: int = self.pos_embed.shape[1]
        self.grid = input_size // EMBEDDING_STRIDE
        self.depth = len(self.blocks)
        self.stage_ends = tuple(index + 1 for index in trunk.stage_ends)
        self.feature_sides = (self.grid, 4 * self.grid, 2 * self.grid)
        self.shapes = _shapes(trunk, input_size // FIRST_STRIDE)

    def forward(self, x: Tensor, *, token_mask: Tensor | None = None, mask_token: Tensor | None = None) -> Features:
        """Encode images (B,3,N,N) to embeddings (B,P,g,g) and features (B,P,4g,4g) and (B,P,2g,2g)."""
        stages = self.forward_tokens(x, self.stage_ends, token_mask=token_mask, mask_token=mask_token)
        (fine, middle, coarse, _), _ = self.neck([tokens.permute(0, 3, 1, 2) for tokens in stages])
        return Features(coarse + self.no_mem_embed.permute(0, 2, 1)[..., None], (fine, middle))

    def embed_patches(self, x: Tensor, token_mask: Tensor | None, mask_token: Tensor | None) -> Tensor:
        """Images (B,3,N,N) to tokens (B,4g,4g,D); what is hidden is hidden in squares of 32 pixels, one per last token.

        Patches overlap, so hidden pixels are blanked first; else the neighbours of a hidden square would see its rim.
        """
        x = (x - self.pixel_mean) / self.pixel_std
        if token_mask is None or mask_token is None:
            tokens: Tensor = self.patch_embed(x)
        else:
            x = x.masked_fill(enlarged(token_mask, LAST_STRIDE)[:, None], 0)
            hidden = enlarged(token_mask, LAST_STRIDE // FIRST_STRIDE)[..., None]
            tokens = self.patch_embed(x)
            tokens = torch.where(hidden, mask_token.to(tokens.dtype), tokens)
        return tokens + self._positions(tokens.shape[1])

    def _positions(self, side: int) -> Tensor:
        """A table stretched over the grid plus one repeated in every window, (1,side,side,D)."""
        stretched = functional.interpolate(self.pos_embed, size=(side, side), mode="bicubic")
        repeats = side // self.pos_embed_window.shape[-1]
        return (stretched + self.pos_embed_window.tile(1, 1, repeats, repeats)).permute(0, 2, 3, 1)


class NoPositions(nn.Module):
    """Stands in for the sine positions of the neck's outputs, which are many and serve the memory of videos alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Any features to nothing, (0,)."""
        return x.new_empty(0)


class _RatesOnCpu(TorchFunctionMode):
    """Hiera's constructor reads its (zero) drop rates out of a tensor, which the meta device has no values for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.linspace:
            return func(*args, **{**(kwargs or {}), "device": "cpu"})
        return func(*args, **(kwargs or {}))


def _shapes(trunk: Hiera, side: int) -> tuple[TokenShape, ...]:
    shapes = []
    for block in trunk.blocks:
        side = side // block.q_stride[0] if block.q_stride else side
        shapes.append(TokenShape(side, block.dim_out))
    return tuple(shapes)


class Sam2BlockSteps(BlockSteps):
    """Hiera's block, cut open around its qkv product: the arithmetic of sam2's ``MultiScaleBlock``, operation by
    operation, so that results stay bit-equal to it.

    Three blocks of a Hiera change stage: q is pooled 2 x 2, so that the output has half the grid, and width D' is
    twice D.
    """

    def window(self, block: MultiScaleBlock) -> int:
        """Side of the attention window on the output grid in tokens, 0 for a global block."""
        return block.window_size // (block.q_stride[0] if block.q_stride else 1)

    def enter(self, block: MultiScaleBlock, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B,H,W,D) to the shortcut, projected and pooled where the stage changes, and to padded windows."""
        normed = block.norm1(x)
        shortcut = x if block.dim == block.dim_out else do_pool(block.proj(normed), block.pool)
        if block.window_size:
            normed, _ = window_partition(normed, block.window_size)
        return shortcut, normed

    def attend(self, block: MultiScaleBlock, qkv: Tensor, size: tuple[int, int]) -> Tensor:
        """Attention, with a pooled q where the stage changes, projected, back on the grid and without padding."""
        attention = block.attn
        n, h, w, _ = qkv.shape
        q, k, v = qkv.reshape(n, h * w, 3, attention.num_heads, -1).unbind(2)
        if attention.q_pool:
            pooled = do_pool(q.reshape(n, h, w, -1), attention.q_pool)
            h, w = pooled.shape[1:3]
            q = pooled.reshape(n, h * w, attention.num_heads, -1)
        heads = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        output = attention.proj(heads.transpose(1, 2).reshape(n, h, w, -1))
        side = self.window(block)
        if side:
            padded = (-(-size[0] // side) * side, -(-size[1] // side) * side)
            output = window_unpartition(output, side, padded, size)
        return output


@dataclass(frozen=True, kw_only=True)
class Sam2Backbone(SamParts):
    """One member of the SAM 2 family.

    ``stages`` counts the blocks of each stage; widths and heads double from stage to stage. Public files hold the
    trunk, the neck and the prompt encoder under other prefixes than SAM's, and parts for videos, of which
    ``no_obj_embed_spatial`` and ``obj_ptr_tpos_proj`` are SAM 2.1's. Nothing in them depends on the input size.
    """

    embed_dim: int
    heads: int
    stages: tuple[int, int, int, int]
    global_attn_indexes: tuple[int, ...]
    window_spec: tuple[int, int, int, int] = (8, 4, 14, 7)
    background_size: int = 14
    own_decoder = "sam2"
    steps = Sam2BlockSteps()
    unused_parts = VIDEO_PARTS
    prompt_encoder, transformer = PromptEncoder, TwoWayTransformer
    mask_decoder = partial(
        MaskDecoder,
        use_high_res_features=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        use_multimask_token_for_obj_ptr=True,
    )

    @property
    def depth(self) -> int:  # type: ignore[override] # the sum of another field
        """Number of blocks over all stages."""
        return sum(self.stages)

    def grid(self, input_size: int) -> int:
        """Side of the embedding's grid; the size must be a multiple of 32, the last stage's stride (``E-MODEL-01``)."""
        check_size(input_size, LAST_STRIDE)
        return input_size // EMBEDDING_STRIDE

    def file_name(self, name: str) -> str:
        """See the base class."""
        if name == "image_encoder.no_mem_embed":
            return "no_mem_embed"
        if name.startswith("image_encoder.neck."):
            return name
        if name.startswith("image_encoder."):
            return "image_encoder.trunk." + name.removeprefix("image_encoder.")
        return "sam_" + name

    def build_encoder(self, input_size: int) -> Sam2Encoder:
        """See the base class."""
        self.grid(input_size)
        with _RatesOnCpu():
            trunk = Hiera(
                embed_dim=self.embed_dim,
                num_heads=self.heads,
                stages=self.stages,
                global_att_blocks=self.global_attn_indexes,
                window_spec=self.window_spec,
                window_pos_embed_bkg_spatial_size=(self.background_size, self.background_size),
            )
        nn.init.trunc_normal_(trunk.pos_embed, std=0.02)
        nn.init.trunc_normal_(trunk.pos_embed_window, std=0.02)
        neck = FpnNeck(
            position_encoding=NoPositions(),
            d_model=self.prompt_dim,
            backbone_channel_list=trunk.channel_list,
            fpn_top_down_levels=[2, 3],
            fpn_interp_model="nearest",
        )
        return Sam2Encoder(trunk, neck, input_size)


SAM2_HIERA_B_PLUS = Sam2Backbone(embed_dim=112, heads=2, stages=(2, 3, 16, 3), global_attn_indexes=(12, 16, 20))
# sam2's configs sam2.1_hiera_t.yaml and sam2.1_hiera_s.yaml
SAM2_HIERA_TINY = Sam2Backbone(
    embed_dim=96, heads=1, stages=(1, 2, 7, 2), global_attn_indexes=(5, 7, 9), background_size=7
)
SAM2_HIERA_SMALL = Sam2Backbone(
    embed_dim=96, heads=1, stages=(1, 2, 11, 2), global_attn_indexes=(7, 10, 13), background_size=7
)

# One block of every kind: windowed, three that change stage, global.
SAMORA2_TINY = Sam2Backbone(embed_dim=24, heads=1, stages=(1, 1, 2, 1), global_attn_indexes=(3,), **TINY_PARTS)
