"""The SimCLRv2 network: TensorFlow's pooling cell by cell, counts and shapes at full size, values at a small one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from samora_pipeline.models.global_norm import GlobalBatchNorm
from samora_pipeline.models.teachers.simclr import (
    Bottleneck,
    MaxPoolSame,
    ProjectionHead,
    ResNetGeometry,
    ResNetSK,
    ShortcutPool,
)
from tests.models.teachers import simclr_reference as reference

FULL = ResNetGeometry(filters=128, depths=(3, 4, 6, 3))
SMALL = ResNetGeometry(filters=8, depths=(2, 1, 2, 1))


def network() -> ResNetSK:
    torch.manual_seed(0)
    return reference.randomised(ResNetSK(SMALL)).eval()


def test_pooling_on_the_worked_example() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert MaxPoolSame()(image)[0, 0].tolist() == [[10.0, 11.0], [14.0, 15.0]]
    averaged = ShortcutPool(1)(image)[0, 0]
    assert averaged[:, 3].tolist() == [5.0, 9.0, 13.0, 15.0]
    assert averaged[3, :].tolist() == [12.5, 13.5, 14.5, 15.0]
    assert ShortcutPool(2)(image)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]


@pytest.mark.parametrize("size", [(6, 6), (7, 7), (5, 8)])
def test_pooling_is_that_of_the_loops(size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    last = images.permute(0, 2, 3, 1).numpy()
    literal = reference.Literal()
    for module, expected in (
        (MaxPoolSame(), literal.pool(last, 3, 2, "max")),
        (ShortcutPool(1), literal.pool(last, 2, 1, "average")),
    ):
        np.testing.assert_allclose(module(images).permute(0, 2, 3, 1).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [64, 48, 45])
def test_maps_equal_the_network_written_out(size: int) -> None:
    encoder = network()
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    variables = reference.tensorflow_variables(encoder)
    walk = reference.Walk(variables, reference.Literal())
    expected = walk.maps(images.permute(0, 2, 3, 1).double().numpy(), SMALL.depths)
    with torch.no_grad():
        maps = encoder(images)
    assert walk.used == variables.keys()
    for own, literal in zip(maps, expected, strict=True):
        difference = own.permute(0, 2, 3, 1).numpy() - literal
        assert np.linalg.norm(difference) < 1e-5 * np.linalg.norm(literal)


def test_counts_and_shapes_at_full_size() -> None:
    with torch.device("meta"):
        encoder, head = ResNetSK(FULL), ProjectionHead(4096)
        stem = encoder.stem(torch.rand(2, 3, 224, 224))
        maps = encoder(torch.rand(2, 3, 224, 224))
        embeddings = head(maps[-1].mean(dim=(2, 3)))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 140_306_048
    assert sum(parameter.numel() for parameter in head.parameters()) == 34_095_360
    assert sum(isinstance(module, nn.Conv2d) for module in encoder.modules()) == 87
    assert sum(isinstance(module, GlobalBatchNorm) for module in encoder.modules()) == 71
    assert [block.kernel.squeeze.weight.shape[0] for block in encoder.modules() if isinstance(block, Bottleneck)] == [
        32
    ] * 13 + [64] * 3
    assert stem.shape == (2, 128, 56, 56)
    assert [tuple(m.shape[1:]) for m in maps] == [(512, 56, 56), (1024, 28, 28), (2048, 14, 14), (4096, 7, 7)]
    assert embeddings.shape == (2, 128)


@pytest.mark.parametrize("training", [False, True])
def test_lightlys_head_has_the_same_names_and_gives_the_same(training: bool) -> None:
    heads = pytest.importorskip("lightly.models.modules.heads", reason="lightly is not installed")
    torch.manual_seed(0)
    theirs = heads.SimCLRProjectionHead(24, 24, 128, num_layers=3).train(training)
    own = ProjectionHead(24).train(training)
    state = reference.randomised(own).state_dict()
    theirs.load_state_dict(state, strict=True)
    pooled = torch.randn(6, 24)
    torch.testing.assert_close(own(pooled), theirs(pooled))


def test_the_last_norm_of_the_head_keeps_no_offset() -> None:
    head = ProjectionHead(16)
    head(torch.randn(4, 16)).square().sum().backward()
    without = {name for name, parameter in head.named_parameters() if parameter.grad is None}
    assert without == {"layers.7.bias"}
    assert not head.get_parameter("layers.7.bias").any()


def test_blocks_start_as_their_shortcut() -> None:
    block = ResNetSK(SMALL).get_submodule("groups.0.1")
    x = torch.rand(2, 32, 8, 8)
    assert torch.equal(block(x), x)


def test_checkpointing_changes_neither_gradients_nor_statistics() -> None:
    images = torch.rand(4, 3, 32, 32)
    found = []
    for checkpointing in (False, True):
        encoder = network().train()
        encoder.checkpointing = checkpointing
        encoder(images)[-1].square().mean().backward()
        assert {norm.momentum for norm in encoder.modules() if isinstance(norm, GlobalBatchNorm)} == {0.1}
        found.append(({n: p.grad for n, p in encoder.named_parameters()}, encoder.state_dict()))
    for kept, repeated in zip(found[0], found[1], strict=True):
        assert kept.keys() == repeated.keys()
        for name, tensor in kept.items():
            torch.testing.assert_close(repeated[name], tensor, msg=name)
    assert int(found[1][1]["stem.1.num_batches_tracked"]) == 1
