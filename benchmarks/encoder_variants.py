"""The variants of SAM's image encoder that ``encoder.py`` times, on one set of weights, and how far they agree.

Shapes: B batch, H W token grid, D width, N input size in pixels, P prompt width, g side of the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, ModelSpec
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.backbones.backbone import Encoder
from samora_pipeline.models.expert_block import ExpertBlock, expert_blocks
from samora_pipeline.models.fusions.fusion import Fusion
from samora_pipeline.models.lora import LoRA

VARIANTS = ("base", "naive", "block", "attention")
"""``naive`` is the function of ``block``, one branch after the other"""


class Apart(nn.Module):
    """An expert block restated the slow way: every branch by itself, one after the other.

    Scope ``block``: the whole block once per branch, with its own qkv product. Scope ``attention``: the attention once
    per branch, and the MLP once.
    """

    def __init__(self, wrapped: ExpertBlock) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B,H,W,D) to (B,H,W,D)."""
        wrapped, fusion = self.wrapped, cast(Fusion, self.wrapped.fusion)
        block, steps = wrapped.block, wrapped.steps
        if wrapped.scope == "block":
            base = block(x)
            experts = torch.stack([self._alone(position, x) for position in range(len(wrapped.levels))])
            return cast(Tensor, base + fusion(base, experts))
        shortcut, windows = steps.enter(block, x)
        product = block.get_submodule("attn.qkv")(windows)
        branches = [
            product,
            *(cast(LoRA, wrapped.experts[level]).factors.adapt(product, windows) for level in wrapped.levels),
        ]
        size = (x.shape[1], x.shape[2])
        base, *attended = (steps.attend(block, branch, size) for branch in branches)
        return steps.leave(block, shortcut + base + fusion(base, torch.stack(attended)))

    def _alone(self, position: int, x: Tensor) -> Tensor:
        """The whole block under one expert."""
        wrapped = self.wrapped
        before, wrapped.active = wrapped.active, (wrapped.levels[position],)
        try:
            return cast(Tensor, wrapped(x))
        finally:
            wrapped.active = before


def build_encoder(backbone: str, size: int, seed: int) -> Encoder:
    """An encoder with three experts and HL-Attn whose weights are all random, so that no branch equals another."""
    torch.manual_seed(seed)
    network = build_network(ModelSpec(backbone, size, 9, levels=LEVELS, fusion=FusionSpec(), lora_rank=4))
    with torch.no_grad():
        for block in expert_blocks(network.image_encoder).values():
            for parameter in (*block.experts.parameters(), *cast(Fusion, block.fusion).parameters()):
                nn.init.normal_(parameter, std=0.02)
    return network.image_encoder


@contextmanager
def variant(encoder: Encoder, name: str) -> Iterator[Encoder]:
    """Within the context the encoder runs as this variant, or (``apart``) as the restatement of scope ``attention``."""
    wrapped = list(encoder.blocks)
    blocks = [cast(ExpertBlock, block) for block in wrapped]
    try:
        for block in blocks:
            block.active = () if name == "base" else block.levels
            block.scope = "attention" if name in ("attention", "apart") else "block"
        if name in ("naive", "apart"):
            encoder.blocks = nn.ModuleList(Apart(block) for block in blocks)
        yield encoder
    finally:
        encoder.blocks = nn.ModuleList(wrapped)
        for block in blocks:
            block.active, block.scope = block.levels, "block"


def run(encoder: Encoder, name: str, images: Tensor) -> Tensor:
    """The embedding (B,P,g,g) of one variant."""
    reduced = next(encoder.neck.parameters()).dtype == torch.bfloat16  # type: ignore[union-attr]
    with (
        torch.inference_mode(),
        variant(encoder, name),
        torch.autocast(images.device.type, torch.bfloat16) if reduced else nullcontext(),
    ):
        return cast(Tensor, encoder(images).embedding.float())


def check(encoder: Encoder, images: Tensor) -> dict[str, float]:
    """Largest difference of our scopes from their restatements, relative to the largest output."""
    pairs = {"block": "naive", "attention": "apart"}
    found = {}
    for ours, reference in pairs.items():
        expected = run(encoder, reference, images)
        found[ours] = ((run(encoder, ours, images) - expected).abs().max() / expected.abs().max()).item()
    return found


def count_gflop(backbone: str, size: int, name: str) -> float:
    """Multiplications and additions of one slice, as torch counts them on tensors without content."""
    with torch.device("meta"):
        encoder, image = build_encoder(backbone, size, 0), torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        run(encoder, name, image)
    return float(counter.get_total_flops()) / 1e9
