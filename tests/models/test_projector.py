from __future__ import annotations

import pytest
import torch
from torch import nn

from samora_pipeline.models.pretraining_heads import PROJECTION_WIDTH, ContrastiveHead, DistillationHead


def test_three_layers_end_in_128_numbers() -> None:
    head = ContrastiveHead(96)
    widths = [(layer.in_features, layer.out_features) for layer in head.modules() if isinstance(layer, nn.Linear)]
    assert widths == [(96, 96), (96, 96), (96, 128)]
    assert head(torch.randn(3, 8, 8, 96)).shape == (3, PROJECTION_WIDTH)


def test_an_embedding_depends_on_its_own_sample_alone() -> None:
    head = ContrastiveHead(96)
    tokens = torch.randn(4, 8, 8, 96)
    torch.testing.assert_close(head(tokens)[2:3], head(tokens[2:3]))


def test_the_scale_of_a_token_does_not_matter() -> None:
    head = ContrastiveHead(96)
    tokens = torch.randn(2, 8, 8, 96)
    scale = torch.rand(2, 8, 8, 1) * 10 + 1
    torch.testing.assert_close(head(tokens * scale), head(tokens), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("grid", "shape"), [(0, (2, 5)), (4, (2, 4, 4, 5)), (2, (2, 2, 2, 5)), (8, (2, 4, 4, 5))])
def test_the_distillation_head_goes_to_the_coarser_grid(grid: int, shape: tuple[int, ...]) -> None:
    head = DistillationHead(12, 5, grid)
    assert sum(parameter.numel() for parameter in head.parameters()) == 12 * 5 + 5
    assert head(torch.randn(2, 4, 4, 12)).shape == shape


def test_the_distillation_head_is_linear_in_normalised_tokens() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 4, 4, 12)
    mean, variance = tokens.mean(-1, keepdim=True), tokens.var(-1, keepdim=True, unbiased=False)
    normed = (tokens - mean) / (variance + 1e-5).sqrt()
    for grid, pooled in (
        (0, normed.mean(dim=(1, 2))),
        (4, normed),
        (2, normed.view(2, 2, 2, 2, 2, 12).mean(dim=(2, 4))),
    ):
        head = DistillationHead(12, 5, grid)
        expected = pooled @ head.projector.weight.T + head.projector.bias
        torch.testing.assert_close(head(tokens), expected)
