"""The contract that every registered teacher meets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.errors import UsageError
from samora_pipeline.models.catalog import TEACHERS

TINY = ["simclr_tiny", "mae_tiny"]


@pytest.mark.parametrize("name", TEACHERS.names())
def test_features_have_the_shapes_that_are_announced(name: str) -> None:
    design = TEACHERS.get(name)
    with torch.device("meta"):
        teacher = design.build()
        images = torch.rand(2, 1, teacher.input_size, teacher.input_size)
        found = {feature: teacher.features(images, feature).shape for feature in teacher.shapes}
    assert design.level is teacher.level
    assert teacher.level in (Level.IMAGE, Level.PATCH)
    assert teacher.input_size == design.native_size
    for feature, (width, grid) in teacher.shapes.items():
        assert found[feature] == ((2, grid, grid, width) if grid else (2, width))
    assert teacher.default_feature in teacher.shapes
    with pytest.raises(KeyError):
        teacher.features(images, "unknown")
    with pytest.raises(UsageError, match="E-TEACH-01"):
        design.build(design.native_size + 1)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", [64, 96])
def test_any_slice_is_brought_to_the_size_and_channels_of_the_network(name: str, channels: int, size: int) -> None:
    teacher: Any = TEACHERS.get(name).build(64)
    images = torch.rand(2, channels, size, size)
    prepared = teacher.prepare(images)
    assert prepared.shape == (2, 3, 64, 64)
    if size == 64:
        gray = images if channels == 3 else images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        torch.testing.assert_close(prepared, teacher.normalise(gray))
    assert teacher.features(images, teacher.default_feature).shape[0] == 2


def test_conventions_of_the_inputs() -> None:
    gray = torch.full((1, 1, 64, 64), 0.5)
    assert torch.equal(TEACHERS.get("simclr_tiny").build(64).prepare(gray), gray.expand(-1, 3, -1, -1))
    channels = TEACHERS.get("mae_tiny").build(64).prepare(gray)[0, :, 0, 0]
    expected = [(0.5 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert channels.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_a_frozen_teacher_changes_with_nothing(name: str) -> None:
    torch.manual_seed(0)
    teacher: Any = TEACHERS.get(name).build(64)
    teacher.freeze()
    before = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    images = torch.rand(4, 1, 64, 64)
    together = teacher.features(images, teacher.default_feature)
    assert not together.requires_grad
    torch.testing.assert_close(teacher.features(images[:1], teacher.default_feature), together[:1])
    assert all(torch.equal(tensor, before[key]) for key, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("name", TINY)
def test_a_teacher_learns_its_own_task(name: str) -> None:
    """Every trainable parameter is reached by the loss that the teacher is pre-trained with."""
    torch.manual_seed(0)
    teacher: Any = TEACHERS.get(name).build(64)
    with torch.no_grad():
        for parameter in teacher.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    images = torch.rand(4, 1, 64, 64)
    if teacher.level is Level.IMAGE:
        output = teacher.embed(images)
        assert output.shape == (4, 128)
    else:
        hidden = torch.arange(16).view(1, 4, 4).expand(4, -1, -1) % 4 > 0
        output = teacher.decode(teacher.encode(teacher.prepare(images), hidden), hidden)
        assert output.shape == (4, 4, 4, 768)
    (output * torch.randn_like(output)).sum().backward()
    still = [name for name, p in teacher.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not still


@pytest.mark.parametrize("name", TINY)
def test_mixed_precision_changes_little(name: str) -> None:
    torch.manual_seed(0)
    teacher: Any = TEACHERS.get(name).build(64)
    teacher.freeze()
    images, hidden = torch.rand(4, 1, 64, 64), torch.arange(16).view(1, 4, 4).expand(4, -1, -1) % 4 > 0

    def outputs() -> list[torch.Tensor]:
        if teacher.level is Level.IMAGE:
            own = teacher.embed(images)
        else:
            own = teacher.decode(teacher.encode(teacher.prepare(images), hidden), hidden)
        return [own, *(teacher.features(images, feature) for feature in teacher.shapes)]

    full = outputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = outputs()
    for exact, rounded in zip(full, half, strict=True):
        assert not torch.equal(rounded.float(), exact)
        assert float((rounded.float() - exact).norm()) < 0.03 * float(exact.norm())
