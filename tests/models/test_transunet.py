"""TransUNet's size, its literal form at the entrance, and what its trained form changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.contracts.model_spec import ModuleSpec
from samora_pipeline.errors import UsageError
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.transunet import TransUNet, Unit

SMALL = {"depths": [1, 1, 1], "width": 32, "heads": 2, "layers": 1, "hidden": 64, "decoder": [16, 8, 8, 4]}


@pytest.mark.parametrize(
    ("outputs", "size", "expected"), [(9, 224, 105_277_081), (2, 224, 105_276_066), (9, 512, 105_912_985)]
)
def test_it_has_as_many_parameters_as_the_public_code(outputs: int, size: int, expected: int) -> None:
    with torch.device("meta"):
        network = build_network(ModuleSpec("transunet", size, outputs))
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def literal_unit(x: Tensor, weights: dict[str, Tensor], stride: int, groups: int) -> Tensor:
    """A bottleneck of the public code from its weights alone."""

    def convolved(y: Tensor, name: str, step: int) -> Tensor:
        weight = weights[f"{name}.weight"]
        flat = weight.flatten(1)
        flat = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return functional.conv2d(y, flat.view_as(weight), stride=step, padding=weight.shape[-1] // 2)

    def normed(y: Tensor, name: str, count: int, eps: float) -> Tensor:
        parts = y.view(len(y), count, -1)
        scaled = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, unbiased=False, keepdim=True) + eps).sqrt()
        return scaled.view_as(y) * weights[f"{name}.weight"].view(-1, 1, 1) + weights[f"{name}.bias"].view(-1, 1, 1)

    own = normed(convolved(x, "convolutions.0", 1), "norms.0", groups, 1e-6).clamp(min=0)
    own = normed(convolved(own, "convolutions.1", stride), "norms.1", groups, 1e-6).clamp(min=0)
    own = normed(convolved(own, "convolutions.2", 1), "norms.2", groups, 1e-6)
    beside = convolved(x, "shortcut.0", stride)
    # One group for each channel.
    return (own + normed(beside, "shortcut.1", beside.shape[1], 1e-5)).clamp(min=0)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_unit_is_the_literal_one(stride: int) -> None:
    torch.manual_seed(0)
    unit = Unit(64, 128, stride, as_trained=False)
    for parameter in unit.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 64, 12, 12)
    state = {name: value.detach() for name, value in unit.state_dict().items()}
    torch.testing.assert_close(unit(x), literal_unit(x, state, stride, 32), rtol=1e-4, atol=1e-4)


def test_maps_before_the_skip_lack_a_row_and_a_column() -> None:
    network = TransUNet(1, 2, 224, **SMALL).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        last, (half, quarter, eighth) = network.resnet(torch.rand(1, 3, 224, 224))
    assert [one.shape[-1] for one in (half, quarter, eighth, last)] == [112, 56, 28, 14]
    assert not quarter[..., -1, :].any()
    assert not quarter[..., -1].any()
    assert quarter[..., -2].any()


@pytest.mark.parametrize(("channels", "as_trained"), [(1, False), (3, True), (2, False)])
def test_logits_have_the_size_of_the_slice(channels: int, as_trained: bool) -> None:
    spec = ModuleSpec("transunet", 64, 4, channels, {**SMALL, "as_trained": as_trained})
    network = build_network(spec)
    logits = network(torch.rand(2, channels, 64, 64))
    assert logits.shape == (2, 4, 64, 64)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="E-MODEL-01"):
        build_network(ModuleSpec("transunet", 100, 2))
