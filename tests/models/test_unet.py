"""The U-Net against a literal restatement from its weights, its size, and what it does not see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.contracts.model_spec import ModuleSpec
from samora_pipeline.errors import UsageError
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.unet import UNet2d


def literal(weights: dict[str, Tensor], images: Tensor, levels: int) -> Tensor:
    """The network in evaluation, slice by slice, from its state alone."""

    def block(x: Tensor, name: str) -> Tensor:
        for number in (0, 3):
            x = functional.conv2d(x, weights[f"{name}.{number}.weight"], padding=1)
            norm = f"{name}.{number + 1}"
            mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
            x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
            x = x * weights[f"{norm}.weight"][:, None, None] + weights[f"{norm}.bias"][:, None, None]
            x = torch.where(x > 0, x, 0.01 * x)
        return x

    results = []
    for image in images:
        x = torch.stack([(channel - channel.mean()) / (channel.std() + 1e-4) for channel in image])
        kept = []
        for level in range(levels):
            x = block(x, f"down.{level}")
            kept.append(x)
            rows = x.unfold(1, 2, 2).unfold(2, 2, 2)
            x = rows.amax((-1, -2))
        x = kept.pop()
        for level in range(levels - 1):
            x = functional.conv_transpose2d(x, weights[f"up.{level}.weight"], weights[f"up.{level}.bias"], stride=2)
            x = block(torch.cat((kept.pop(), x)), f"join.{level}")
        results.append(functional.conv2d(x, weights["head.weight"], weights["head.bias"]))
    return torch.stack(results)


def trained_a_little(network: UNet2d, channels: int) -> UNet2d:
    """With statistics that are not those of a new network."""
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(4, channels, 32, 32))
    return network.eval()


def test_it_is_what_its_weights_say() -> None:
    torch.manual_seed(0)
    network = trained_a_little(UNet2d(2, 3, 32, widths=(4, 8, 12)), 2).double()
    images = torch.rand(2, 2, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        found = network(images)
    assert found.shape == (2, 3, 32, 32)
    torch.testing.assert_close(found, literal(network.state_dict(), images, levels=3))


def test_its_size() -> None:
    network = build_network(ModuleSpec("unet2d", 128, 2))
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_942_306


def test_gain_and_offset_of_a_slice_are_not_seen() -> None:
    torch.manual_seed(0)
    network = trained_a_little(UNet2d(1, 2, 32), 1)
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(0.3 * images + 0.4), network(images), rtol=1e-2, atol=1e-3)
        assert torch.isfinite(network(torch.zeros(1, 1, 32, 32))).all()


@pytest.mark.parametrize(("size", "nearest"), [(100, 96), (7, 16)])
def test_a_size_that_cannot_be_halved_is_refused(size: int, nearest: int) -> None:
    with pytest.raises(UsageError, match="E-MODEL-01") as caught:
        UNet2d(1, 2, size)
    assert caught.value.fix == f"--set input_size={nearest}"
