"""SAM's mask decoder with fewer and larger operations on a GPU; on a CPU it is segment_anything's, bit by bit.

Parameters, their names and their random start are the package's own.

Shapes: B batch, P prompt width, g side of the embedding grid, K output maps, T tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.models.backbones.sam_block import FUSED_ON


class SamNorm2d(LayerNorm2d):  # type: ignore[misc] # segment_anything has no types
    """The norm over channels of (B,P,h,w), by one operation on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B,P,h,w) to the same shape."""
        if x.device.type not in FUSED_ON:
            return super().forward(x)
        last = x.permute(0, 2, 3, 1)
        return functional.layer_norm(last, last.shape[-1:], self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


def with_own_arithmetic(module: nn.Module) -> None:
    """Give the package's parts below ``module`` the arithmetic of this file; it names its classes where it builds."""
    for part in module.modules():
        if type(part) in _OWN:
            part.__class__ = _OWN[type(part)]


class SamAttention(Attention):  # type: ignore[misc] # segment_anything has no types
    """Attention of SAM's mask decoder, whose scores are not written on a GPU."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries (B or 1,T,P), keys and values (B or 1,T',P) to (B,T,P)."""
        if q.device.type not in FUSED_ON:
            return super().forward(q, k, v)
        pairs = ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        heads = [self._separate_heads(layer(x), self.num_heads) for layer, x in pairs]
        batch = max(len(part) for part in heads)
        mixed = functional.scaled_dot_product_attention(*(part.expand(batch, -1, -1, -1) for part in heads))
        return self.out_proj(self._recombine_heads(mixed))


_OWN: dict[type[nn.Module], type[nn.Module]] = {Attention: SamAttention, LayerNorm2d: SamNorm2d}


class SamTwoWayTransformer(TwoWayTransformer):  # type: ignore[misc] # segment_anything has no types
    """Its transformer, with ``SamAttention``."""

    def __init__(self, depth: int, embedding_dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__(depth, embedding_dim, num_heads, mlp_dim)
        with_own_arithmetic(self)


class SamMaskDecoder(MaskDecoder):  # type: ignore[misc] # segment_anything has no types
    """Its mask decoder; on a GPU the hyper-networks of all maps run together."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        with_own_arithmetic(self)

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B,P,g,g), positions (1,P,g,g) and prompts (1,T,P), (1,P,g,g) to maps (B,K,4g,4g).

        Beside them the predicted quality, which on a GPU nobody is told: it is None.
        """
        if image_embeddings.device.type not in FUSED_ON or len(sparse_prompt_embeddings) > 1:
            return super().predict_masks(image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings)
        own = torch.cat((self.iou_token.weight, self.mask_tokens.weight))[None]
        image = image_embeddings + dense_prompt_embeddings
        tokens, flat = self.transformer(image, image_pe, torch.cat((own, sparse_prompt_embeddings), dim=1))
        upscaled = self.output_upscaling(flat.transpose(1, 2).view_as(image))
        masks = tokens[:, 1 : 1 + self.num_mask_tokens]
        weights = together(list(self.output_hypernetworks_mlps), masks)
        return (weights @ upscaled.flatten(2)).view(*weights.shape[:2], *upscaled.shape[-2:]), None


def together(networks: Sequence[MLP], tokens: Tensor) -> Tensor:
    """Each of K networks of equal sizes on its own token, (B,K,P) to (B,K,P')."""
    x = tokens.transpose(0, 1)
    depth = networks[0].num_layers
    for number in range(depth):
        layers = [network.layers[number] for network in networks]
        weight, bias = torch.stack([layer.weight for layer in layers]), torch.stack([layer.bias for layer in layers])
        x = torch.baddbmm(bias[:, None], x, weight.mT)
        if number < depth - 1:
            x = x.relu()
    return x.transpose(0, 1)
