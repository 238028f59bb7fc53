"""The SAM family: encoders, prompt encoders and mask decoders made from segment_anything's own classes.

The registry of that package is fixed to 1024 px and three masks, so the parts are built here for any input size and
any number of outputs. Parameter names stay those of the public checkpoint files.

Shapes: B batch, N input size in pixels, g = N / 16 token grid, D encoder width, P prompt width; see BlockSteps for
those of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.image_encoder import Block, add_decomposed_rel_pos, window_partition, window_unpartition
from torch import Tensor, nn

from samora_pipeline.models.backbones.backbone import (
    TINY_PARTS,
    BlockSteps,
    Encoder,
    Features,
    SamParts,
    TokenShape,
    check_size,
)


class SamEncoder(Encoder):
    """The image encoder of SAM, open in the middle.

    ``blocks`` may be exchanged one by one for wrappers that keep ``(B,g,g,D) -> (B,g,g,D)``.
    """

    def __init__(self, reference: ImageEncoderViT, embed_dim: int) -> None:
        super().__init__()
        self.patch_embed: nn.Module = reference.patch_embed
        self.pos_embed: nn.Parameter = reference.pos_embed
        self.blocks: nn.ModuleList = reference.blocks
        self.neck: nn.Module = reference.neck
        self.embed_dim = embed_dim
        self.grid: int = self.pos_embed.shape[1]
        self.depth = len(self.blocks)
        self.shapes = (TokenShape(self.grid, embed_dim),) * self.depth
        self.feature_sides = (self.grid,)

    def forward(
        self,
        x: Tensor,
        *,
        token_mask: Tensor | None = None,
        mask_token: Tensor | None = None,
        additions: Sequence[Tensor] | None = None,
    ) -> Features:
        """Encode images (B,3,N,N) to embeddings (B,P,g,g); SAM has no finer features. ``additions`` (B,g,g,D) each."""
        (tokens,) = self.forward_tokens(
            x, (self.depth,), token_mask=token_mask, mask_token=mask_token, additions=additions
        )
        return Features(self.neck(tokens.permute(0, 3, 1, 2)))

    def positions(self) -> Tensor:
        """What is added to the patch embedding, (1,g,g,D)."""
        return self.pos_embed

    def embed_patches(self, x: Tensor, token_mask: Tensor | None, mask_token: Tensor | None) -> Tensor:
        """Images (B,3,N,N) to tokens (B,g,g,D)."""
        tokens = self.patch_embed(x)
        if token_mask is not None and mask_token is not None:
            tokens = torch.where(token_mask[..., None], mask_token.to(tokens.dtype), tokens)
        return tokens + self.positions()


class SamBlockSteps(BlockSteps):
    """SAM's transformer block, cut open around its qkv product: the arithmetic of segment_anything's ``Block``,
    operation by operation, so that results stay bit-equal to it.
    """

    def window(self, block: Block) -> int:
        """Side of the attention window in tokens, 0 for a global block."""
        return block.window_size

    def enter(self, block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B,H,W,D) are their own shortcut; normalised and cut into zero-padded windows they go to qkv."""
        normed = block.norm1(x)
        if block.window_size:
            normed, _ = window_partition(normed, block.window_size)
        return x, normed

    def attend(self, block: Block, qkv: Tensor, size: tuple[int, int]) -> Tensor:
        """Attention with decomposed relative positions, projected, back on the grid and without padding."""
        attention = block.attn
        n, h, w, _ = qkv.shape
        split = qkv.reshape(n, h * w, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = split.flatten(1, 2).unbind(0)
        scores = (q * attention.scale) @ k.transpose(-2, -1)
        if attention.use_rel_pos:
            scores = add_decomposed_rel_pos(scores, q, attention.rel_pos_h, attention.rel_pos_w, (h, w), (h, w))
        heads = (scores.softmax(dim=-1) @ v).unflatten(0, (n, attention.num_heads))
        output = attention.proj(heads.transpose(1, 2).reshape(n, h, w, -1))
        if block.window_size:
            side = block.window_size
            padded = (-(-size[0] // side) * side, -(-size[1] // side) * side)
            output = window_unpartition(output, side, padded, size)
        return output


@dataclass(frozen=True, kw_only=True)
class SamBackbone(SamParts):
    """One member of the SAM family."""

    embed_dim: int
    depth: int
    heads: int
    global_attn_indexes: tuple[int, ...]
    window_size: int = 14
    mlp_ratio: float = 4.0
    patch_size: int = 16
    relative_positions: bool = True
    own_decoder = "samed"
    steps = SamBlockSteps()
    resized_tables = True
    prompt_encoder, mask_decoder, transformer = PromptEncoder, MaskDecoder, TwoWayTransformer

    def grid(self, input_size: int) -> int:
        """Tokens along one side; the size must be a multiple of the patch size (``E-MODEL-01``)."""
        check_size(input_size, self.patch_size)
        return input_size // self.patch_size

    def build_encoder(self, input_size: int) -> SamEncoder:
        """See the base class."""
        reference = self.reference_encoder(input_size)
        nn.init.trunc_normal_(reference.pos_embed, std=0.02)
        return SamEncoder(reference, self.embed_dim)

    def reference_encoder(self, input_size: int) -> ImageEncoderViT:
        """segment_anything's own encoder; the size must be a multiple of the patch size (``E-MODEL-01``)."""
        self.grid(input_size)
        return ImageEncoderViT(
            img_size=input_size,
            patch_size=self.patch_size,
            embed_dim=self.embed_dim,
            depth=self.depth,
            num_heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            out_chans=self.prompt_dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=self.relative_positions,
            window_size=self.window_size,
            global_attn_indexes=self.global_attn_indexes,
        )


SAM_VIT_B = SamBackbone(embed_dim=768, depth=12, heads=12, global_attn_indexes=(2, 5, 8, 11))
SAM_VIT_L = SamBackbone(embed_dim=1024, depth=24, heads=16, global_attn_indexes=(5, 11, 17, 23))
SAM_VIT_H = SamBackbone(embed_dim=1280, depth=32, heads=16, global_attn_indexes=(7, 15, 23, 31))

# Depth 6 keeps the thirds that taps are taken at; an MLP ratio of 3 pays for it (0.88 M with 4 outputs).
# Eight by eight tokens are fewer than one window of the large models, so every block is global.
SAMORA_TINY = SamBackbone(
    embed_dim=96, depth=6, heads=3, global_attn_indexes=tuple(range(6)), window_size=0, mlp_ratio=3.0, **TINY_PARTS
)
