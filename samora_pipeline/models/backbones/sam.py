"""The SAM family: encoders, prompt encoders and mask decoders made from segment_anything's own classes.

The registry of that package is fixed to 1024 px and three masks, so the parts are built here for any input size and
any number of outputs. Parameter names stay those of the public checkpoint files.

Shapes: B batch, N input size in pixels, g = N / 16 token grid, D encoder width, P prompt width; see BlockSteps for
those of a block.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder
from torch import Tensor, nn

from samora_pipeline.models.backbones.backbone import (
    TINY_PARTS,
    Encoder,
    Features,
    SamParts,
    TokenShape,
    check_size,
)
from samora_pipeline.models.backbones.sam_block import SamBlockSteps as SamBlockSteps
from samora_pipeline.models.backbones.sam_decoder import SamMaskDecoder, SamTwoWayTransformer, with_own_arithmetic


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
        with_own_arithmetic(self.neck)
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
    prompt_encoder, transformer = PromptEncoder, SamTwoWayTransformer
    mask_decoder: ClassVar[Callable[..., MaskDecoder]] = SamMaskDecoder

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
