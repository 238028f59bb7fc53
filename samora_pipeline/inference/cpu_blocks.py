"""SAM's blocks on a CPU, where memory is what costs: the same numbers to rounding, in fewer passes over them.

Shapes: n windows over the whole batch, h w the tokens of one, D width, B = n times the number of heads, d = D / heads.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import Block, get_rel_pos
from torch import Tensor, nn

from samora_pipeline.models.backbones.sam_block import SamBlockSteps
from samora_pipeline.models.expert_block import ExpertBlock


def use_cpu_blocks(network: nn.Module) -> None:
    """Let the expert blocks of a SAM encoder run by ``CpuSamBlockSteps``; others stay as they are. No gradients."""
    for module in network.modules():
        if isinstance(module, ExpertBlock) and type(module.steps) is SamBlockSteps:
            module.steps = CpuSamBlockSteps()


class CpuSamBlockSteps(SamBlockSteps):
    """``SamBlockSteps`` without gradients.

    The relative positions of a pair of tokens are one number for its rows and one for its columns, picked by the key's
    own row and column. As further dimensions of q, against the key's row and column written as unit vectors, they
    come out of the product of q and k, and no map of all pairs has to be added to that of the scores.
    """

    def scores(self, block: Block, q: Tensor, k: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores (B,hw,hw) of q and k (B,hw,d), positions included."""
        attention = block.attn
        scaled = q * attention.scale
        if attention.use_rel_pos:
            own = q.view(-1, *size, q.shape[-1])
            rows = torch.einsum("bhwd,hkd->bhwk", own, get_rel_pos(size[0], size[0], attention.rel_pos_h))
            columns = torch.einsum("bhwd,wkd->bhwk", own, get_rel_pos(size[1], size[1], attention.rel_pos_w))
            scaled = torch.cat((scaled, rows.flatten(1, 2), columns.flatten(1, 2)), dim=-1)
            k = torch.cat((k, _places(size, k).expand(len(k), -1, -1)), dim=-1)
        scores: Tensor = scaled @ k.transpose(-2, -1)
        return scores

    def leave(self, block: Block, x: Tensor) -> Tensor:
        """Add the MLP's output. Its hidden layer, four times as wide as the tokens, is activated in place."""
        hidden = block.mlp.lin1(block.norm2(x))
        if isinstance(block.mlp.act, nn.GELU):
            torch.ops.aten.gelu_(hidden, approximate=block.mlp.act.approximate)
        else:
            hidden = block.mlp.act(hidden)
        output: Tensor = x + block.mlp.lin2(hidden)
        return output


def _places(size: tuple[int, int], like: Tensor) -> Tensor:
    """Row and column of each token as unit vectors, (hw,h+w)."""
    rows, columns = (torch.eye(side, dtype=like.dtype, device=like.device) for side in size)
    return torch.cat((rows.repeat_interleave(size[1], dim=0), columns.repeat(size[0], 1)), dim=-1)
