"""SAM's transformer block, cut open around its qkv product: as segment_anything computes it, and fused on a GPU.

segment_anything writes the scores of all pairs of tokens and adds two tables of relative positions to them, picked by
indices that it makes on the host. On a device of ``FUSED_ON`` the tables become columns instead: a query is lengthened
by its products with the rows of both tables that count for it, a key by a 1 at its own row and at its own column, so
that their product is the score with its positions. No scores are written then (``scaled_dot_product_attention``), and
the host waits for nothing. Results differ by rounding (``tests/models/test_fused_attention.py``).

The branches of several experts share keys, because LoRA leaves k alone, and nearly all of the values:
v_e = v + B_e A_e x. So A_e x of every expert are further columns of the values that all branches share; what a branch
has gathered of its own is multiplied by B_e afterwards. The base is an expert with B = 0.

Shapes: B batch, H W token grid, n windows of h w tokens, D width, k branches (base and experts), r rank,
a heads of d numbers, s columns of positions; see BlockSteps for those of a block.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from segment_anything.modeling.image_encoder import Block, add_decomposed_rel_pos, window_partition, window_unpartition
from torch import Tensor
from torch.nn import functional

from samora_pipeline.models.backbones.backbone import BlockSteps
from samora_pipeline.models.branch_products import branch_linear, branch_mlp, reduced_type
from samora_pipeline.models.kept import kept
from samora_pipeline.models.lora import LowRank

FUSED_ON = ("cuda",)
"""kinds of devices; elsewhere results stay bit-equal to segment_anything's"""
_ALIGNED = 8
"""fused kernels take heads of a multiple of so many numbers"""


class Places(NamedTuple):
    """Relative positions in a window: which products with the tables a query takes, and where a key has its ones.

    ``picked`` (h w, s) int64, ``own`` (h w, s) of zeros and ones.
    """

    picked: Tensor
    own: Tensor


class SamBlockSteps(BlockSteps):
    """The steps of segment_anything's ``Block``, on a CPU operation by operation, so that results stay bit-equal."""

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
        if self.is_fused(block, qkv):
            q, k, v = qkv.reshape(n, h * w, 3, attention.num_heads, -1).unbind(2)
            heads = _attention(attention, q[None], k, v, (h, w))[:, 0]
        else:
            heads = _exact(attention, qkv).transpose(1, 2)
        return _on_grid(block, attention.proj(heads.reshape(n, h, w, -1)), size)

    def is_fused(self, block: Block, x: Tensor) -> bool:
        """See the base class; ``x`` are windows (n,h,w,...)."""
        attention = block.attn
        if x.device.type not in FUSED_ON or not attention.use_rel_pos:
            return False
        tables = zip(x.shape[1:3], (attention.rel_pos_h, attention.rel_pos_w), strict=True)
        return all(len(table) == 2 * side - 1 for side, table in tables)

    def attend_branches(
        self,
        block: Block,
        windows: Tensor,
        experts: Sequence[LowRank],
        size: tuple[int, int],
        dtype: torch.dtype | None,
    ) -> Tensor:
        """See the base class."""
        attention, count = block.attn, 1 + len(experts)
        n, h, w, _ = windows.shape
        joined = _joined(attention, experts, dtype)
        product = branch_linear(windows[None], joined.weight, joined.bias, dtype).squeeze(0).flatten(1, 2)
        width = joined.up_q.shape[1]
        q, k, v, low = torch.split(product, [width, width, width, len(joined.weight) - 3 * width], -1)
        low_q, low_v = torch.unflatten(low, -1, (2, count, -1)).unbind(2)
        rows, heads = q.flatten(0, 1), attention.num_heads
        queries = torch.baddbmm(rows.expand(count, -1, -1), low_q.flatten(0, 1).transpose(0, 1), joined.up_q.mT)
        keys, values = (torch.unflatten(part, -1, (heads, -1)) for part in (k, v))
        shared = low_v.flatten(-2)[:, :, None].expand(-1, -1, heads, -1)
        gathered = _attention(
            attention,
            queries.view(count, n, h * w, heads, -1),
            keys,
            torch.cat((values, shared), -1),
            (h, w),
        )
        mixed, low = torch.split(gathered, [values.shape[-1], shared.shape[-1]], -1)
        own = torch.unflatten(low, -1, (count, -1)).diagonal(dim1=1, dim2=4)
        added = torch.einsum("nxare,eadr->enxad", own, torch.unflatten(joined.up_v, 1, (heads, -1)))
        output = branch_linear(
            (mixed.movedim(1, 0) + added).flatten(-2), attention.proj.weight, attention.proj.bias, dtype
        )
        return torch.unflatten(_on_grid(block, output.view(count * n, h, w, -1), size), 0, (count, -1))

    def leave_branches(self, block: Block, x: Tensor) -> Tensor:
        """See the base class."""
        dtype, mlp = reduced_type(x), block.mlp
        first, second = ((layer.weight, layer.bias) for layer in (mlp.lin1, mlp.lin2))
        learns = torch.is_grad_enabled() and any(value.requires_grad for value in (*first, *second))
        if dtype is None or learns or x.device.type not in FUSED_ON:
            return super().leave_branches(block, x)
        return x + branch_mlp(block.norm2(x), first, second, dtype)


class Joined(NamedTuple):
    """The qkv layer with the A of q and of v of all branches below it, (3D+2kr,D), and their B, (k,D,r) each.

    The base is a branch too: with the first expert's A, and zero for B.
    """

    weight: Tensor
    bias: Tensor
    up_q: Tensor
    up_v: Tensor


def _joined(attention: Any, experts: Sequence[LowRank], dtype: torch.dtype | None) -> Joined:
    weight, bias = attention.qkv.weight, attention.qkv.bias

    def make() -> Joined:
        down = [factor for a in zip(*((e.q_a, e.v_a) for e in experts), strict=True) for factor in (a[0], *a)]
        low = [factor.to(weight.dtype) for factor in down]
        wide = weight.dtype if dtype is None else torch.float32
        up = (
            torch.stack((torch.zeros_like(b[0]), *b)).to(wide)
            for b in zip(*((e.q_b, e.v_b) for e in experts), strict=True)
        )
        return Joined(torch.cat((weight, *low)), functional.pad(bias, (0, sum(map(len, low)))), *up)

    return kept(attention, "joined", [weight, bias, *(factor for e in experts for factor in e)], make, dtype)


def _attention(attention: Any, queries: Tensor, keys: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """Queries (k,n,h w,a,d), keys (n,h w,a,d) and values (n,h w,a,e) of windows of ``size`` h w to (n,k,h w,a,e)."""
    picked, own = _places(attention, size, keys)
    products = queries @ _tables(attention).mT
    positions = products.gather(-1, picked[None, None, :, None].expand(*products.shape[:-1], -1))
    parts = (queries, positions.to(queries.dtype))
    longer = torch.cat([part.transpose(0, 1) for part in parts], -1).flatten(1, 2)
    keys = torch.cat((keys, own.to(keys.dtype)[None, :, None].expand(*keys.shape[:-1], -1)), -1)
    mixed = functional.scaled_dot_product_attention(
        longer.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), scale=attention.scale
    )
    return torch.unflatten(mixed.transpose(1, 2), 1, (queries.shape[0], -1))


def _tables(attention: Any) -> Tensor:
    """Both tables and a row of zeros, divided by the scale: the kernel scales all, and positions are not to be."""
    tables = [attention.rel_pos_h, attention.rel_pos_w]
    return kept(attention, "tables", tables, lambda: functional.pad(torch.cat(tables) / attention.scale, (0, 0, 0, 1)))


def _places(attention: Any, size: tuple[int, int], like: Tensor) -> Places:
    """The places of a window of ``size``, made once and kept on the device beside the tables."""
    return kept(attention, "places", [], lambda: _make_places(size, like.device), size, like.device)


def _make_places(size: tuple[int, int], device: torch.device) -> Places:
    h, w = size
    spare = -(h + w) % _ALIGNED
    row = torch.arange(h, device=device).repeat_interleave(w)[:, None]
    column = torch.arange(w, device=device).repeat(h)[:, None]
    rows, columns = torch.arange(h, device=device), torch.arange(w, device=device)
    nothing = torch.full((h * w, spare), 2 * (h + w) - 2, device=device)  # the row of zeros behind both tables
    picked = torch.cat((row - rows + h - 1, column - columns + w - 1 + 2 * h - 1, nothing), 1)
    own = torch.cat((row == rows, column == columns, torch.zeros_like(nothing, dtype=torch.bool)), 1)
    return Places(picked, own.float())


def _exact(attention: Any, qkv: Tensor) -> Tensor:
    """Attention over windows (n,h,w,3D), to (n,a,h w,d), by segment_anything's own operations."""
    n, h, w, _ = qkv.shape
    split = qkv.reshape(n, h * w, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = split.flatten(1, 2).unbind(0)
    scores = (q * attention.scale) @ k.transpose(-2, -1)
    if attention.use_rel_pos:
        scores = add_decomposed_rel_pos(scores, q, attention.rel_pos_h, attention.rel_pos_w, (h, w), (h, w))
    return (scores.softmax(dim=-1) @ v).unflatten(0, (n, attention.num_heads))


def _on_grid(block: Block, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows (n,h,w,D) back on the grid (B,H,W,D), without padding."""
    if not block.window_size:
        return windows
    side = block.window_size
    padded = (-(-size[0] // side) * side, -(-size[1] // side) * side)
    return window_unpartition(windows, side, padded, size)
