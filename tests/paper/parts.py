"""The parts of a network that the equations speak of: the one file here that touches how they are built."""

from __future__ import annotations

from typing import Any

import torch
from segment_anything.modeling.image_encoder import Block
from torch import nn

from samora_pipeline.contracts.model_spec import LEVELS
from samora_pipeline.models.backbones.sam import SamBlockSteps
from samora_pipeline.models.catalog import fusion_options
from samora_pipeline.models.expert_block import ExpertBlock
from samora_pipeline.models.fusions.stepwise import HLAttention

DIM, HEADS = 16, 8


def literal_fusion() -> Any:
    """HL-Attn as printed, in the order 2-1-1; no windows."""
    options = fusion_options("hl_attn", {"order": "2-1-1", "residual": "paper"})
    return _random(HLAttention(options, num_experts=len(LEVELS), dim=DIM, window=0))


def block_with_experts() -> tuple[Any, Any]:
    """A transformer block of SAM without windows, and the same with an expert of each level fused as printed."""
    block = _random(Block(DIM, num_heads=HEADS, window_size=0))
    experts = ExpertBlock(block, SamBlockSteps(), LEVELS, 2, fusion=literal_fusion(), scope="block")
    return block, _random(experts)


def changed_weights(experts: Any) -> list[torch.Tensor]:
    """What each expert adds to the weights (3D,D) of queries, keys and values, from high to low level."""
    nothing = torch.zeros(DIM, DIM, dtype=torch.float64)
    loras = [experts.experts[level] for level in LEVELS]
    return [torch.cat([lora.q_b @ lora.q_a, nothing, lora.v_b @ lora.v_a]).detach() for lora in loras]


def _random(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return module
