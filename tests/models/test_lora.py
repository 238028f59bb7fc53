from __future__ import annotations

import pytest
import torch
from torch import nn

from samora_pipeline.models.lora import LoRA


@pytest.mark.parametrize(("dim_in", "dim_out"), [(24, 24), (24, 48)])
def test_equals_a_projection_with_merged_weights(dim_in: int, dim_out: int) -> None:
    torch.manual_seed(0)
    qkv = nn.Linear(dim_in, 3 * dim_out).double()
    lora = LoRA(dim_in, dim_out, rank=3).double()
    for parameter in lora.parameters():
        nn.init.normal_(parameter)
    merged = qkv.weight.detach().clone()
    merged[:dim_out] += (lora.q_b @ lora.q_a).detach()
    merged[2 * dim_out :] += (lora.v_b @ lora.v_a).detach()
    x = torch.randn(2, 5, 5, dim_in, dtype=torch.float64)
    torch.testing.assert_close(lora.factors.adapt(qkv(x), x), x @ merged.T + qkv.bias, rtol=0, atol=1e-12)


def test_a_new_expert_changes_nothing_and_differs_between_q_and_v() -> None:
    lora = LoRA(24, 24, rank=4)
    x, qkv = torch.randn(7, 24), torch.randn(7, 72)
    assert torch.equal(lora.factors.adapt(qkv, x), qkv)
    assert not torch.equal(lora.q_a, lora.v_a)
    bound = 1 / 24**0.5
    assert 0.8 * bound < lora.q_a.abs().max() <= bound


@pytest.mark.parametrize(("rank", "count"), [(1, 36_864), (4, 147_456), (16, 589_824)])
def test_size_on_vit_b(rank: int, count: int) -> None:
    assert 12 * sum(p.numel() for p in LoRA(768, 768, rank).parameters()) == count
