"""The EfficientSAM family (Xiong et al., arXiv 2312.00863): a plain ViT-Ti or -S that learned SAM's features.

Encoder: SAM's patches, blocks and neck without windows and without relative positions. The decoder has the form and the
sizes of SAM's; what differs in it is below. Both have SAM's names here, and those of the public files
(github.com/yformer/EfficientSAM) by ``EfficientSamBackbone.file_name``.

Shapes: B batch, N input size in pixels, g = N / 16 token grid, D encoder width, P prompt width.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.image_encoder import PatchEmbed
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.models.backbones.backbone import Standardised
from samora_pipeline.models.backbones.sam import SamBackbone, SamEncoder

PRETRAINED_GRID = 14
"""side of the position table in the files, which hold a first row for a class token that no image has"""

_RENAMED = (
    (r"(image_encoder\.blocks\.\d+\.mlp)\.lin", r"\1.fc"),
    (r"(mask_decoder\.transformer\.layers\.\d+\.mlp)\.lin1", r"\1.layers.0.0"),
    (r"(mask_decoder\.transformer\.layers\.\d+\.mlp)\.lin2", r"\1.fc"),
    (r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.([01])", r"\1.layers.\2.0"),
    (r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.2", r"\1.fc"),
    (r"mask_decoder\.output_upscaling\.([01])", r"mask_decoder.final_output_upscaling_layers.0.\1"),
    (r"mask_decoder\.output_upscaling\.3", "mask_decoder.final_output_upscaling_layers.1.0"),
)
"""names of SAM's parts and of the same in the public files"""


class StandardisingPatches(PatchEmbed):  # type: ignore[misc] # untyped
    """Patch embedding of images in [0,1]: the weights were trained on standardised pixels."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__((patch_size, patch_size), (patch_size, patch_size), embed_dim=embed_dim)
        self.standardised = Standardised()

    def forward(self, x: Tensor) -> Tensor:
        """Images (B,3,N,N) to (B,g,g,D)."""
        return super().forward(self.standardised(x))


class EfficientSamEncoder(SamEncoder):
    """SAM's encoder with the position table of the public files, (1,197,D), which every input size reads anew."""

    def __init__(self, reference: ImageEncoderViT, embed_dim: int, patch_size: int) -> None:
        super().__init__(reference, embed_dim)
        self.patch_embed = StandardisingPatches(patch_size, embed_dim)
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + PRETRAINED_GRID**2, embed_dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def positions(self) -> Tensor:
        """The table without its first row, interpolated bicubically where the grid is not 14 x 14."""
        table = torch.unflatten(self.pos_embed[:, 1:], 1, (PRETRAINED_GRID, PRETRAINED_GRID))
        if self.grid == PRETRAINED_GRID:
            return table
        size = (self.grid, self.grid)
        return functional.interpolate(table.permute(0, 3, 1, 2), size, mode="bicubic").permute(0, 2, 3, 1)


class GeluMlp(MLP):  # type: ignore[misc] # untyped
    """SAM's layers with GELU between them."""

    def forward(self, x: Tensor) -> Tensor:
        """(...,I) to (...,O)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = functional.gelu(layer(x))
        return last(x)


class _ResidualAttention(Attention):  # type: ignore[misc] # untyped
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q + super().forward(q, k, v)


class _Layer(TwoWayAttentionBlock):  # type: ignore[misc] # untyped
    """A layer of SAM's two-way transformer whose self-attention is added to what it reads, positions included."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, *, first: bool) -> None:
        super().__init__(dim, heads, mlp_dim, nn.GELU, skip_first_layer_pe=True)
        self.self_attn = _ResidualAttention(dim, heads)
        self.first = first

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(queries if self.first else queries + query_pe, keys, query_pe, key_pe)


class EfficientSamTransformer(TwoWayTransformer):  # type: ignore[misc] # untyped
    """SAM's two-way transformer of the layers above; tensors in and out as there."""

    def __init__(self, depth: int, embedding_dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__(depth, embedding_dim, num_heads, mlp_dim)
        self.layers = nn.ModuleList(
            _Layer(embedding_dim, num_heads, mlp_dim, first=number == 0) for number in range(depth)
        )


class EfficientSamMaskDecoder(MaskDecoder):  # type: ignore[misc] # untyped
    """SAM's mask decoder with GELU in every MLP, and one group over channels and pixels where the maps are normed."""

    def __init__(self, *, transformer_dim: int, iou_head_depth: int, iou_head_hidden_dim: int, **others: Any) -> None:
        super().__init__(transformer_dim=transformer_dim, **others)
        outputs = self.num_mask_tokens
        self.output_upscaling[1] = nn.GroupNorm(1, transformer_dim // 4)
        self.output_hypernetworks_mlps = nn.ModuleList(
            GeluMlp(transformer_dim, transformer_dim, transformer_dim // 8, 3) for _ in range(outputs)
        )
        self.iou_prediction_head = GeluMlp(transformer_dim, iou_head_hidden_dim, outputs, iou_head_depth)


@dataclass(frozen=True, kw_only=True)
class EfficientSamBackbone(SamBackbone):
    """One member of the family.

    Public files have a prompt encoder for points and boxes alone: of ours, the frequencies of the positions are read
    from them, and the embedding of having no mask starts at zero, which is what their decoder knows.
    """

    depth: int = 12
    global_attn_indexes: tuple[int, ...] = ()
    window_size: int = 0
    relative_positions: bool = False
    resized_tables = False
    other_parts = ("prompt_encoder.",)
    mask_decoder, transformer = EfficientSamMaskDecoder, EfficientSamTransformer

    def file_name(self, name: str) -> str:
        """See the base class."""
        for ours, theirs in _RENAMED:
            name = re.sub(ours, theirs, name)
        return name

    def build_encoder(self, input_size: int) -> EfficientSamEncoder:
        """See the base class."""
        return EfficientSamEncoder(self.reference_encoder(input_size), self.embed_dim, self.patch_size)

    def build_prompt_encoder(self, input_size: int) -> PromptEncoder:
        """See the base class."""
        prompts = super().build_prompt_encoder(input_size)
        nn.init.zeros_(prompts.no_mask_embed.weight)
        return prompts


EFFICIENT_SAM_TI = EfficientSamBackbone(embed_dim=192, heads=3)
EFFICIENT_SAM_S = EfficientSamBackbone(embed_dim=384, heads=6)
