"""Augmentation of volumes against a slow restatement in millimetres, one voxel after the other."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from samora_pipeline.contracts.random_steps import VolumeAugmentationSettings
from samora_pipeline.errors import UsageError
from samora_pipeline.slices.intensities import apply_intensities, draw_intensities
from samora_pipeline.slices.views import draw_uniform
from samora_pipeline.slices.volume_augmentation import apply_volume_augmentation, draw_volume_augmentation

SHAPE = (6, 8, 10)
EXTENTS = (30.0, 24.0, 55.0)
KEYS = ["data/a", "data/b"]


def turned(place: npt.NDArray[np.float64], axis: str, degrees: float) -> npt.NDArray[np.float64]:
    """A place (x along columns, y along rows, z along planes) turned about an axis by the textbook's matrix."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrices = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }
    result: npt.NDArray[np.float64] = np.array(matrices[axis]) @ place
    return result


def value(volume: npt.NDArray[np.float64], index: npt.NDArray[np.float64], *, nearest: bool) -> float:
    """Of a volume at an index (plane, row, column) with fractions; zero outside."""
    total = 0.0
    if nearest:
        near = np.rint(index).astype(int)
        inside = all(0 <= i < n for i, n in zip(near, volume.shape, strict=True))
        return float(volume[tuple(near)]) if inside else 0.0
    low = np.floor(index).astype(int)
    for corner in np.ndindex(2, 2, 2):
        at = low + corner
        share = np.prod(1 - np.abs(index - at))
        if all(0 <= i < n for i, n in zip(at, volume.shape, strict=True)):
            total += float(share) * float(volume[tuple(at)])
    return total


def restated(
    volume: npt.NDArray[np.float64], drawn: list[float], settings: VolumeAugmentationSettings, *, nearest: bool
) -> npt.NDArray[np.float64]:
    """From each voxel of the result to the place in the scan, in mm from its centre, that it shows."""
    tilts, rotation = (settings.tilt, settings.tilt), settings.rotation
    shape, extents = np.array(SHAPE), np.array(EXTENTS)
    low, high = settings.scale
    scale = low + (high - low) * drawn[6]
    result = np.zeros(SHAPE)
    for index in np.ndindex(*SHAPE):
        mm = ((np.array(index) + 0.5) / shape - 0.5) * extents
        place = mm[::-1] / scale
        place = turned(place, "z", (2 * drawn[2] - 1) * rotation)
        place = turned(place, "y", (2 * drawn[1] - 1) * tilts[1])
        place = turned(place, "x", (2 * drawn[0] - 1) * tilts[0])
        place = np.array([-p if drawn[3 + i] < settings.flip else p for i, p in enumerate(place)])
        shift = np.array([settings.translation * (2 * drawn[7 + i] - 1) for i in range(3)])
        share = place[::-1] / extents + shift[::-1] + 0.5
        result[index] = value(volume, share * shape - 0.5, nearest=nearest)
    return result


def test_it_is_one_affine_interpolation_in_millimetres() -> None:
    settings = VolumeAugmentationSettings(
        rotation=40, tilt=25, scale=(0.7, 1.3), flip=0.5, translation=0.1, contrast=(1, 1), brightness=(1, 1)
    )
    images, targets = torch.rand(2, 1, *SHAPE), torch.randint(-1, 4, (2, *SHAPE))
    extents = torch.tensor([EXTENTS, EXTENTS])
    drawn = draw_volume_augmentation(KEYS, extents, settings, mirror=True, seed=3, epoch=2)
    moved, labels = apply_volume_augmentation(images, targets, drawn)
    numbers = draw_uniform(KEYS, 10, "volume", seed=3, epoch=2).double().tolist()
    for i in range(2):
        expected = restated(images[i, 0].double().numpy(), numbers[i], settings, nearest=False)
        np.testing.assert_allclose(moved[i, 0].numpy(), expected, atol=1e-4)
        nearest = restated(targets[i].double().numpy(), numbers[i], settings, nearest=True)
        assert (labels[i].numpy() != nearest).mean() < 0.01  # a place between two voxels may be rounded either way


def _drawn(
    settings: VolumeAugmentationSettings, *, mirror: bool = True, keys: list[str] = KEYS, epoch: int = 0
) -> Tensor:
    extents = torch.tensor([EXTENTS] * len(keys))
    return draw_volume_augmentation(keys, extents, settings, mirror=mirror, seed=0, epoch=epoch).affine


def test_nothing_is_changed_where_nothing_may_be() -> None:
    settings = VolumeAugmentationSettings(
        rotation=0, tilt=0, scale=(1, 1), translation=0, contrast=(1, 1), brightness=(1, 1)
    )
    images, targets = torch.rand(1, 2, *SHAPE), torch.randint(-1, 4, (1, *SHAPE))
    drawn = draw_volume_augmentation(["a"], torch.tensor([EXTENTS]), settings, mirror=True, seed=0, epoch=0)
    moved, labels = apply_volume_augmentation(images, targets, drawn)
    torch.testing.assert_close(moved, images, atol=1e-5, rtol=0)
    assert torch.equal(labels, targets)


def test_flips_only_where_the_plan_allows_them() -> None:
    settings = VolumeAugmentationSettings(flip=1.0, rotation=0, tilt=0)
    assert (_drawn(settings)[:, range(3), range(3)] < 0).all()
    assert (_drawn(settings, mirror=False)[:, range(3), range(3)] > 0).all()


def test_a_volume_is_varied_alike_in_any_batch_and_anew_in_any_epoch() -> None:
    settings = VolumeAugmentationSettings()
    assert torch.equal(_drawn(settings, keys=["data/b"])[0], _drawn(settings)[1])
    assert not torch.equal(_drawn(settings, epoch=1), _drawn(settings))


def test_intensities_are_those_of_slices() -> None:
    settings = VolumeAugmentationSettings(
        rotation=0,
        tilt=0,
        scale=(1, 1),
        translation=0,
        gamma=(0.4, 2.5),
        curve=1,
        bias=(0.5, 0.5),
        blur=1,
        noise=(0.1, 0.1),
    )
    images = torch.rand(1, 1, *SHAPE)
    drawn = draw_volume_augmentation(["a"], torch.tensor([EXTENTS]), settings, mirror=True, seed=5, epoch=1)
    varied, _ = apply_volume_augmentation(images, torch.zeros(1, *SHAPE, dtype=torch.int64), drawn)
    planes = apply_intensities(images[:, 0], draw_intensities(["a"], settings, seed=5, epoch=1))
    torch.testing.assert_close(varied[:, 0], planes, atol=1e-3, rtol=0)


@pytest.mark.parametrize("changes", [{"elastic": 0.5}, {"scheme": "samed"}])
def test_what_exists_for_slices_alone_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="E-SET-06") as caught:
        VolumeAugmentationSettings(**changes)  # type: ignore[arg-type]
    assert "UNetTrainer" in caught.value.fix
