"""Augmentation of labelled slices: ranges, reproducibility, and geometry against one literal interpolation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from batchgenerators.augmentations.utils import interpolate_img
from scipy import ndimage

from samora_pipeline.contracts.plans import IntensityRule, Planned, Plans, SliceAxis
from samora_pipeline.contracts.random_steps import AugmentationSettings
from samora_pipeline.slices.augmentation import (
    AugmentationParameters,
    allowed_flips,
    apply_augmentation,
    draw_augmentation,
)

STILL = AugmentationSettings(
    rotation=0.0, flip=0.0, scale=(1.0, 1.0), elastic=0.0, contrast=(1.0, 1.0), brightness=(1.0, 1.0)
)
BOTH = (True, True)
N = 64


def pair(count: int = 1, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images and blobs of labels -1..4."""
    generator = np.random.default_rng(0)
    fields = ndimage.gaussian_filter(generator.random((count, channels + 1, N, N)), (0, 0, 4, 4))
    low, high = fields.min((2, 3), keepdims=True), fields.max((2, 3), keepdims=True)
    fields = (fields - low) / (high - low)
    labels = np.floor(fields[:, -1] * 5.99).astype(np.int64) - 1
    return torch.from_numpy(fields[:, :-1]).float(), torch.from_numpy(labels)


def linear_part(drawn: AugmentationParameters) -> np.ndarray:
    """(2,2) per sample: how far the source moves, in shares of the side, per share of the side of the result."""
    c = drawn.coordinates.double().numpy()
    span = (N - 1) / N
    rows, columns = (c[:, :, -1, 0] - c[:, :, 0, 0]) / span, (c[:, :, 0, -1] - c[:, :, 0, 0]) / span
    return np.stack((rows, columns), axis=2)


def test_drawn_geometry_stays_in_the_ranges_of_the_appendix() -> None:
    keys = [f"case/{i}" for i in range(400)]
    drawn = draw_augmentation(keys, N, replace(AugmentationSettings(), elastic=0.0), BOTH, seed=0, epoch=0)
    matrix = linear_part(drawn)
    scale = 1 / np.sqrt(np.abs(np.linalg.det(matrix)))
    flipped = np.sign(matrix[:, [0, 1], [0, 1]]) < 0
    angle = np.degrees(np.arctan2(np.abs(matrix[:, 0, 1]), np.abs(matrix[:, 0, 0])))
    assert 0.9 <= scale.min() < 0.91
    assert 1.09 < scale.max() <= 1.1
    assert 14 < angle.max() <= 15
    assert np.abs(flipped.mean(axis=0) - 0.5).max() < 0.08
    assert abs((flipped[:, 0] & flipped[:, 1]).mean() - 0.25) < 0.08
    assert {0.8 <= float(v) <= 1.2 for v in (*drawn.intensities.contrast, *drawn.intensities.brightness)} == {True}


def test_elastic_deformation_has_the_stated_size_and_frequency() -> None:
    keys = [f"case/{i}" for i in range(200)]
    drawn = draw_augmentation(keys, 224, replace(STILL, elastic=0.5), BOTH, seed=0, epoch=0)
    still = draw_augmentation(["any"], 224, STILL, BOTH, seed=0, epoch=0)
    displacement = (drawn.coordinates - still.coordinates).numpy()
    bent = np.abs(displacement).max(axis=(1, 2, 3)) > 0
    assert abs(bent.mean() - 0.5) < 0.12
    inner = displacement[bent][:, :, 14:-14, 14:-14]
    assert inner.std() == pytest.approx(0.018, rel=0.1)
    # Neighbouring points (4 pixels apart) move nearly together: nothing folds.
    assert np.abs(np.diff(displacement, axis=2)).max() < 4 / 224


@pytest.mark.parametrize(("rows", "columns"), [(True, False), (False, True), (True, True), (False, False)])
def test_flips_alone_are_exact_and_only_where_allowed(rows: bool, columns: bool) -> None:
    images, targets = pair(2, channels=2)
    drawn = draw_augmentation(["a", "b"], N, replace(STILL, flip=1.0), (rows, columns), seed=0, epoch=0)
    axes = [axis for axis, flipped in ((-2, rows), (-1, columns)) if flipped]
    moved, labels = apply_augmentation(images, targets, drawn)
    torch.testing.assert_close(moved, images.flip(axes), atol=1e-4, rtol=0)
    assert torch.equal(labels, targets.flip(axes))
    assert (labels.dtype, moved.dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize("key", ["a", "b", "c"])
def test_geometry_equals_one_interpolation_at_full_resolution(key: str) -> None:
    """The coarse coordinates, laid out for each pixel, and batchgenerators' own interpolation as the oracle."""
    images, targets = pair()
    settings = replace(AugmentationSettings(), contrast=(1.0, 1.0), brightness=(1.0, 1.0), elastic=1.0)
    drawn = draw_augmentation([key], N, settings, BOTH, seed=1, epoch=0)
    points = drawn.coordinates.shape[-1]
    place = np.arange(N) * (points - 1) / (N - 1)
    grid = np.stack(np.meshgrid(place, place, indexing="ij"))
    where = np.stack([ndimage.map_coordinates(c, grid, order=1, mode="nearest") for c in drawn.coordinates[0].numpy()])
    where = where * N + (N - 1) / 2
    moved, labels = apply_augmentation(images, targets, drawn)
    inside = ((where > 2) & (where < N - 3)).all(axis=0)
    expected = interpolate_img(images[0, 0].numpy(), where, order=3)
    np.testing.assert_allclose(moved[0, 0].numpy()[inside], expected[inside], atol=0.01)
    nearest = interpolate_img(targets[0].numpy(), where, order=0, mode="nearest")
    assert (labels[0].numpy() != nearest)[inside].mean() < 1e-3  # float32 and float64 round a tie differently


def test_rotation_turns_by_the_drawn_angle_about_the_centre() -> None:
    rows, columns = torch.meshgrid(torch.arange(N) - 31.5, torch.arange(N) - 31.5, indexing="ij")
    images = (torch.exp(-((rows - 16) ** 2 + columns**2) / 18))[None, None]
    drawn = draw_augmentation(["x"], N, replace(STILL, rotation=15.0, scale=(0.9, 1.1)), BOTH, seed=4, epoch=0)
    moved, _ = apply_augmentation(images, torch.zeros(1, N, N, dtype=torch.int64), drawn)
    centre = np.array(ndimage.center_of_mass(moved[0, 0].numpy() ** 2)) - 31.5
    (matrix,) = linear_part(drawn)
    np.testing.assert_allclose(matrix @ centre, (16, 0), atol=0.1)
    assert abs(math.degrees(math.atan2(centre[1], centre[0]))) > 1


def test_labels_are_never_mixed_and_ignored_pixels_stay_ignored() -> None:
    images, targets = pair(8)
    targets = torch.where(targets == 2, 7, targets)
    drawn = draw_augmentation([str(i) for i in range(8)], N, AugmentationSettings(), BOTH, seed=0, epoch=0)
    _, labels = apply_augmentation(images, targets, drawn)
    assert set(labels.unique().tolist()) == {-1, 0, 1, 3, 4, 7}
    ignored = torch.full_like(targets, -1)
    inner = apply_augmentation(images, ignored, drawn)[1][:, 20:-20, 20:-20]
    assert (inner == -1).all()


def test_image_and_labels_move_together() -> None:
    images, _ = pair(6)
    drawn = draw_augmentation(
        [str(i) for i in range(6)],
        N,
        replace(AugmentationSettings(), contrast=(1, 1), brightness=(1, 1)),
        BOTH,
        seed=0,
        epoch=0,
    )
    moved, labels = apply_augmentation(images, (images[:, 0] > 0.5).long(), drawn)
    mask = moved[:, 0] > 0.5
    overlap = 2 * (mask & (labels == 1)).sum() / (mask.sum() + labels.sum())
    assert overlap > 0.95  # a shift by a whole pixel gives less than 0.92


def test_contrast_turns_about_the_mean_and_brightness_multiplies() -> None:
    images, targets = pair(2)
    still = draw_augmentation(["a", "b"], N, STILL, BOTH, seed=0, epoch=0)
    factors: dict[str, Any] = {"contrast": torch.tensor([0.5, 1.0]), "brightness": torch.tensor([1.0, 1.5])}
    drawn = still._replace(intensities=still.intensities._replace(**factors))
    moved, _ = apply_augmentation(images, targets, drawn)
    mean = images[0].mean()
    torch.testing.assert_close(moved[0], (images[0] - mean) * 0.5 + mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[1], (images[1] * 1.5).clamp(0, 1), atol=1e-4, rtol=0)


def test_the_same_key_gives_the_same_slice_in_any_batch() -> None:
    images, targets = pair(4)
    keys = ["a", "b", "c", "d"]

    def augmented(chosen: list[int], epoch: int = 3, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
        names = [keys[i] for i in chosen]
        drawn = draw_augmentation(names, N, AugmentationSettings(), BOTH, seed=seed, epoch=epoch)
        return apply_augmentation(images[chosen], targets[chosen], drawn)

    whole = augmented([0, 1, 2, 3])
    for chosen in ([3, 1], [2], [3, 2, 1, 0]):
        part = augmented(chosen)
        torch.testing.assert_close(part[0], whole[0][chosen], atol=1e-6, rtol=0)
        assert torch.equal(part[1], whole[1][chosen])
    assert not torch.equal(augmented([0], epoch=4)[0], whole[0][:1])
    assert not torch.equal(augmented([0], seed=6)[0], whole[0][:1])
    assert augmented([])[0].shape == (0, 1, N, N)


def test_the_global_generator_is_left_as_it_was() -> None:
    np.random.seed(7)
    expected = np.random.random(3)
    np.random.seed(7)
    draw_augmentation(["a", "b"], N, AugmentationSettings(), BOTH, seed=0, epoch=0)
    np.testing.assert_array_equal(np.random.random(3), expected)


@pytest.mark.parametrize(
    ("axis", "free", "expected"),
    [
        ("axial", True, (True, True)),
        ("axial", False, (False, False)),
        ("coronal", False, (False, False)),
        ("sagittal", False, (False, False)),
    ],
)
def test_mirror_follow_the_plan(axis: SliceAxis, free: bool, expected: tuple[bool, bool]) -> None:
    plans = Plans(
        dataset="D",
        channel_names=("CT",),
        slice_axis=Planned(axis, ""),
        in_plane=Planned("resize", ""),
        in_plane_spacing=Planned(None, ""),
        slice_size=Planned(N, ""),
        input_size=Planned(N, ""),
        channels=Planned("repeat", ""),
        intensity=Planned((IntensityRule("range"),), ""),
        mirror=Planned(free, ""),
        fingerprint_digest="",
    )
    assert allowed_flips(plans) == expected
