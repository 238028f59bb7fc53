"""Hiera's transformer block, cut open around its qkv product (see BlockSteps for the shapes).

Three blocks of a Hiera change stage: q is pooled 2 x 2, so that the output has half the grid, and width D' is twice D.
"""

from __future__ import annotations

from sam2.modeling.backbones.hieradet import MultiScaleBlock, do_pool
from sam2.modeling.backbones.utils import window_partition, window_unpartition
from torch import Tensor
from torch.nn import functional


class Sam2BlockSteps:
    """The arithmetic of sam2's ``MultiScaleBlock``, operation by operation, so that results stay bit-equal to it."""

    def window(self, block: MultiScaleBlock) -> int:
        """Side of the attention window on the output grid in tokens, 0 for a global block."""
        side: int = block.window_size // (block.q_stride[0] if block.q_stride else 1)
        return side

    def enter(self, block: MultiScaleBlock, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B,H,W,D) to the shortcut, projected and pooled where the stage changes, and to padded windows."""
        normed = block.norm1(x)
        shortcut = x if block.dim == block.dim_out else do_pool(block.proj(normed), block.pool)
        if block.window_size:
            normed, _ = window_partition(normed, block.window_size)
        return shortcut, normed

    def attend(self, block: MultiScaleBlock, product: Tensor, size: tuple[int, int]) -> Tensor:
        """Attention, with a pooled q where the stage changes, projected, back on the grid and without padding."""
        attention = block.attn
        n, h, w, _ = product.shape
        q, k, v = product.reshape(n, h * w, 3, attention.num_heads, -1).unbind(2)
        if attention.q_pool:
            pooled = do_pool(q.reshape(n, h, w, -1), attention.q_pool)
            h, w = pooled.shape[1:3]
            q = pooled.reshape(n, h * w, attention.num_heads, -1)
        heads = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        output: Tensor = attention.proj(heads.transpose(1, 2).reshape(n, h, w, -1))
        side = self.window(block)
        if side:
            padded = (-(-size[0] // side) * side, -(-size[1] // side) * side)
            output = window_unpartition(output, side, padded, size)
        return output

    def leave(self, block: MultiScaleBlock, x: Tensor) -> Tensor:
        """Add the MLP's output."""
        output: Tensor = x + block.mlp(block.norm2(x))
        return output
