"""A transformer block with LoRA experts on it (SAMora, section 3.3, Eq. 2-7).

Shapes: B batch, H W token grid, D width, E experts, n windows over the whole batch, k branches (base and experts).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import LEVELS, Level, Scope
from samora_pipeline.models.backbones.backbone import BlockSteps
from samora_pipeline.models.fusions.fusion import Fusion, Merge
from samora_pipeline.models.lora import LoRA


class ExpertBlock(nn.Module):
    """Wraps a block that has ``attn.qkv``; one qkv product serves the base and all experts.

    Without experts it is the plain block, with one it is the block under that LoRA, and with several the branches
    (base first, then the levels from high to low) ride on the batch axis and a fusion joins them:

    - scope ``block``: F is the block's output, E_i the whole block run with expert i, O = F + fusion(F, E) (Eq. 2-7).
    - scope ``attention``: F and E_i are the outputs of the attention alone; the sum is what the MLP then sees, once.

    A Merge joins their weights instead, and the block is run once, under the LoRA that it gives.

    Raises:
        ValueError: several levels without a fusion, or a fusion with fewer than two.
    """

    def __init__(
        self,
        block: nn.Module,
        steps: BlockSteps,
        levels: Sequence[Level],
        rank: int,
        *,
        fusion: Fusion | Merge | None = None,
        scope: Scope = "block",
    ) -> None:
        super().__init__()
        if (len(levels) > 1) != (fusion is not None):
            raise ValueError(f"{len(levels)} levels and {'a' if fusion else 'no'} fusion do not go together")
        self.block = block
        self.steps = steps
        self.scope = scope
        self.fusion = fusion
        widths = block_widths(block)
        self.experts = nn.ModuleDict({level.value: LoRA(*widths, rank) for level in LEVELS if level in levels})
        self.active: tuple[Level, ...] = self.levels

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels of the experts, from high to low."""
        return tuple(Level(name) for name in self.experts)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B,H,W,D) to (B,H,W,D); width and grid change where the wrapped block changes them."""
        if not self.active:
            return self.block(x)
        shortcut, windows = self.steps.enter(self.block, x)
        qkv = _qkv(self.block)(windows)
        experts = [cast(LoRA, self.experts[level]).factors for level in self.active]
        if len(experts) > 1 and isinstance(self.fusion, Merge):
            experts = [self.fusion(experts)]
        branches = [expert.adapt(qkv, windows) for expert in experts]
        if len(branches) == 1:
            return self.steps.leave(self.block, shortcut + self._attend(branches[0], shortcut))
        attended = self._attend(torch.cat((qkv, *branches)), shortcut)
        return self._fuse(shortcut, attended.view(1 + len(branches), *shortcut.shape))

    def _attend(self, qkv: Tensor, shortcut: Tensor) -> Tensor:
        return self.steps.attend(self.block, qkv, (shortcut.shape[1], shortcut.shape[2]))

    def _fuse(self, shortcut: Tensor, attended: Tensor) -> Tensor:
        """Join the branches (k,B,H,W,D)."""
        fusion = cast(Fusion, self.fusion)
        if self.scope == "attention":
            joined = attended[0] + fusion(attended[0], attended[1:])
            return self.steps.leave(self.block, shortcut + joined)
        outputs = self.steps.leave(self.block, (shortcut + attended).flatten(0, 1)).view(attended.shape)
        return outputs[0] + fusion(outputs[0], outputs[1:])


def _qkv(block: nn.Module) -> nn.Linear:
    return cast(nn.Linear, block.get_submodule("attn.qkv"))


def block_widths(block: nn.Module) -> tuple[int, int]:
    """Width of the tokens that a block takes and of those it gives, read from its qkv projection."""
    qkv = _qkv(block)
    return qkv.in_features, qkv.out_features // 3


def expert_blocks(module: nn.Module) -> dict[str, ExpertBlock]:
    """All expert blocks below ``module`` by their path, in order."""
    return {path: child for path, child in module.named_modules() if isinstance(child, ExpertBlock)}


@contextmanager
def only_expert(module: nn.Module, level: Level | None) -> Iterator[None]:
    """Within the context every block below ``module`` runs with this one expert and no fusion; None: the plain base.

    This is what shows an expert apart from the others (Fig. 6), and what it adds to the base.

    Raises:
        KeyError: a block has no expert of that level.
    """
    blocks = list(expert_blocks(module).values())
    before = [block.active for block in blocks]
    wanted = () if level is None else (level,)
    for block in blocks:
        if not set(wanted) <= set(block.levels):
            raise KeyError(level)
    try:
        for block in blocks:
            block.active = wanted
        yield
    finally:
        for block, active in zip(blocks, before, strict=True):
            block.active = active
