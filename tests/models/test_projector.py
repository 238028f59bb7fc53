from __future__ import annotations

import torch
from torch import nn

from samora_pipeline.models.projector import PROJECTION_WIDTH, ContrastiveHead


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
