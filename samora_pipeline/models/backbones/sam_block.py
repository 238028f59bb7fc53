"""SAM's transformer block, cut open around its qkv product (see BlockSteps for the shapes)."""

from __future__ import annotations

from segment_anything.modeling.image_encoder import (
    Block,
    add_decomposed_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor


class SamBlockSteps:
    """The arithmetic of segment_anything's ``Block``, operation by operation, so that results stay bit-equal to it."""

    def window(self, block: Block) -> int:
        """Side of the attention window in tokens, 0 for a global block."""
        side: int = block.window_size
        return side

    def enter(self, block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B,H,W,D) are their own shortcut; normalised and cut into zero-padded windows they go to qkv."""
        normed = block.norm1(x)
        if block.window_size:
            normed, _ = window_partition(normed, block.window_size)
        return x, normed

    def attend(self, block: Block, product: Tensor, size: tuple[int, int]) -> Tensor:
        """Attention with decomposed relative positions, projected, back on the grid and without padding."""
        attention = block.attn
        n, h, w, _ = product.shape
        split = product.reshape(n, h * w, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = split.flatten(1, 2).unbind(0)
        scores = (q * attention.scale) @ k.transpose(-2, -1)
        if attention.use_rel_pos:
            scores = add_decomposed_rel_pos(scores, q, attention.rel_pos_h, attention.rel_pos_w, (h, w), (h, w))
        heads = (scores.softmax(dim=-1) @ v).unflatten(0, (n, attention.num_heads))
        output: Tensor = attention.proj(heads.transpose(1, 2).reshape(n, h, w, -1))
        if block.window_size:
            side = block.window_size
            padded = (-(-size[0] // side) * side, -(-size[1] // side) * side)
            output = window_unpartition(output, side, padded, size)
        return output

    def leave(self, block: Block, x: Tensor) -> Tensor:
        """Add the MLP's output."""
        output: Tensor = x + block.mlp(block.norm2(x))
        return output
