"""The 3-D U-Net against a literal restatement from its weights, its size, and what it does not see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.contracts.model_spec import ModuleSpec
from samora_pipeline.errors import UsageError
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.recomputation import recompute
from samora_pipeline.models.unet3d import UNet3d

VOLUME = (8, 12, 16)


def literal(weights: dict[str, Tensor], volumes: Tensor, levels: int, groups: int) -> Tensor:
    """The network volume by volume, from its state alone."""

    def block(x: Tensor, name: str) -> Tensor:
        for number in (0, 3):
            x = functional.conv3d(x, weights[f"{name}.{number}.weight"], padding=1)
            parts = [(part - part.mean()) / (part.var(correction=0) + 1e-5).sqrt() for part in x.chunk(groups)]
            gain, offset = (weights[f"{name}.{number + 1}.{kind}"][:, None, None, None] for kind in ("weight", "bias"))
            x = torch.cat(parts) * gain + offset
            x = torch.where(x > 0, x, 0.01 * x)
        return x

    results = []
    for volume in volumes:
        x = torch.stack([(channel - channel.mean()) / (channel.std() + 1e-4) for channel in volume])
        kept = []
        for level in range(levels):
            x = block(x, f"down.{level}")
            kept.append(x)
            x = x.unfold(1, 2, 2).unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2, -3))
        x = kept.pop()
        for level in range(levels - 1):
            x = functional.conv_transpose3d(x, weights[f"up.{level}.weight"], weights[f"up.{level}.bias"], stride=2)
            x = block(torch.cat((kept.pop(), x)), f"join.{level}")
        results.append(functional.conv3d(x, weights["head.weight"], weights["head.bias"]))
    return torch.stack(results)


def test_it_is_what_its_weights_say() -> None:
    torch.manual_seed(0)
    network = UNet3d(2, 3, VOLUME, widths=(8, 16, 24)).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    volumes = torch.rand(2, 2, *VOLUME, dtype=torch.float64)
    with torch.no_grad():
        found = network(volumes)
    assert found.shape == (2, 3, *VOLUME)
    torch.testing.assert_close(found, literal(network.state_dict(), volumes, levels=3, groups=8))


def test_its_size() -> None:
    network = build_network(ModuleSpec("unet3d", 96, 2, volume=(48, 80, 96)))
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_401_282


def test_gain_and_offset_of_a_volume_are_not_seen() -> None:
    torch.manual_seed(0)
    network = UNet3d(1, 2, VOLUME, widths=(8, 16))
    volumes = torch.rand(2, 1, *VOLUME)
    with torch.no_grad():
        torch.testing.assert_close(network(0.3 * volumes + 0.4), network(volumes), rtol=1e-2, atol=1e-3)
        assert torch.isfinite(network(torch.zeros(1, 1, *VOLUME))).all()


def test_what_is_computed_again_has_the_same_gradient() -> None:
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        network = UNet3d(1, 2, VOLUME, widths=(8, 16))
        if again:
            recompute(network)
        network(torch.linspace(0, 1, 8 * 12 * 16).view(1, 1, *VOLUME)).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(*gradients)


def test_sides_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(UsageError, match="E-MODEL-01") as caught:
        UNet3d(1, 2, (45, 80, 100))
    assert caught.value.fix == "--set model.volume=48,80,96"


def test_volumes_and_logits_of_another_shape_are_refused() -> None:
    network = build_network(ModuleSpec("unet3d", 16, 2, volume=(8, 8, 16)))
    with pytest.raises(ValueError, match="do not fit"):
        network(torch.zeros(1, 1, 16, 16))
    flat = build_network(ModuleSpec("torch.nn:Flatten", 16, 2, volume=(8, 8, 16)))
    with pytest.raises(ValueError, match="logits"):
        flat(torch.zeros(1, 1, 8, 8, 16))
