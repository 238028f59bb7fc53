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
from samora_pipeline.models.branch_products import by_differences, reduced, reduced_type, widened
from samora_pipeline.models.fusions.fusion import Fusion, Merge
from samora_pipeline.models.lora import LoRA, LowRank


class ExpertBlock(nn.Module):
    """Wraps a block that has ``attn.qkv``; one qkv product serves the base and all experts.

    Without experts it is the plain block, with one it is the block under that LoRA, and with several the branches
    (base first, then the levels from high to low) ride on the batch axis and a fusion joins them:

    - scope ``block``: F is the block's output, E_i the whole block run with expert i, O = F + fusion(F, E) (Eq. 2-7).
    - scope ``attention``: F and E_i are the outputs of the attention alone; the sum is what the MLP then sees, once.

    Where the products are reduced (autocast), the branches are computed from their differences (``branch_products``).
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
        if len(self.active) > 1 and not isinstance(self.fusion, Merge):
            return self._fused(widened(x), cast(Fusion, self.fusion))
        if not self.active and x.device.type != "cuda":
            return self.block(x)
        shortcut, windows = self.steps.enter(self.block, x)
        return self.steps.leave(self.block, shortcut + self._attend(self._project(windows), shortcut))

    @property
    def _factors(self) -> list[LowRank]:
        return [cast(LoRA, self.experts[level]).factors for level in self.active]

    def _project(self, windows: Tensor) -> Tensor:
        """The qkv products (k n,h,w,3D'): of the base or a single expert, or of the base and of all experts."""
        windows, experts = reduced(windows), self._factors
        qkv = _qkv(self.block)(windows)
        if len(experts) > 1 and isinstance(self.fusion, Merge):
            experts = [self.fusion(experts)]
        branches = [expert.adapt(qkv, windows) for expert in experts]
        if len(branches) < 2:
            return branches[0] if branches else qkv
        return torch.cat((qkv, *branches))

    def _attend(self, qkv: Tensor, shortcut: Tensor) -> Tensor:
        return self.steps.attend(self.block, qkv, (shortcut.shape[1], shortcut.shape[2]))

    def _fused(self, x: Tensor, fusion: Fusion) -> Tensor:
        """Run base and experts, (k,B,H,W,D) from ``_attend`` on, and join them. E_i - F survives few digits."""
        count = 1 + len(self.active)
        shortcut, branches = self._branches(x, count)
        if self.scope == "block":
            branches = self.steps.leave_branches(self.block, shortcut + branches)
        base, experts = torch.split(branches, [1, count - 1])
        base = base.squeeze(0)
        joined = base + fusion(base, experts)
        return joined if self.scope == "block" else self.steps.leave(self.block, shortcut + joined)

    def _branches(self, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The shortcut (B,H',W',D') and what the attention adds to it in each branch, (k,B,H',W',D')."""
        dtype = reduced_type(x)
        with by_differences(1, x):
            shortcut, windows = self.steps.enter(self.block, x)
            if self.steps.is_fused(self.block, windows):
                size = (shortcut.shape[1], shortcut.shape[2])
                return shortcut, self.steps.attend_branches(self.block, windows, self._factors, size, dtype)
            qkv = self._project(windows)
        with by_differences(count, x):
            return shortcut, self._attend(qkv, shortcut).view(count, *shortcut.shape)


def _qkv(block: nn.Module) -> nn.Linear:
    return cast(nn.Linear, block.get_submodule("attn.qkv"))


def block_widths(block: nn.Module) -> tuple[int, int]:
    """Width of what goes into a block's qkv projection, and of the tokens that the block gives."""
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
