"""The geometry of SAMed's and H-SAM's public codes: kinds, shares, ranges; exact where pixels fall on pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samora_pipeline.contracts.random_steps import AugmentationSettings
from samora_pipeline.slices.augmentation import apply_augmentation, draw_augmentation

N = 64
KEYS = [f"case/{number}" for number in range(1200)]
SAMED = AugmentationSettings(scheme="samed", contrast=(1.0, 1.0), brightness=(1.0, 1.0))
HSAM = AugmentationSettings(scheme="hsam", contrast=(1.0, 1.0), brightness=(1.0, 1.0))


def coordinates(settings: AugmentationSettings, flips: bool = True) -> np.ndarray:
    drawn = draw_augmentation(KEYS, N, settings, (flips, flips), seed=0, epoch=0)
    return drawn.coordinates.double().numpy()


def linear_parts(where: np.ndarray) -> np.ndarray:
    """(S,2,2): how far the source moves per step of the result, along rows and along columns."""
    span = (N - 1) / N
    return np.stack(
        ((where[:, :, -1, 0] - where[:, :, 0, 0]) / span, (where[:, :, 0, -1] - where[:, :, 0, 0]) / span), 2
    )


def is_affine(where: np.ndarray) -> np.ndarray:
    steps = np.diff(where, axis=2)
    return np.abs(steps - steps[:, :, :1, :1]).max(axis=(1, 2, 3)) < 1e-6


def angles(matrices: np.ndarray) -> np.ndarray:
    degrees: np.ndarray = np.degrees(np.arctan2(matrices[:, 0, 1], matrices[:, 0, 0]))
    return degrees


def test_samed_turns_and_flips_a_half_and_rotates_a_quarter() -> None:
    matrices = linear_parts(coordinates(SAMED))
    determinants = np.linalg.det(matrices)
    np.testing.assert_allclose(np.abs(determinants), 1, atol=1e-5)
    mirrored = determinants < 0
    still = np.abs(matrices - np.eye(2)).max(axis=(1, 2)) < 1e-5
    assert abs(mirrored.mean() - 0.5) < 0.04
    rotated = angles(matrices[~mirrored & ~still])
    np.testing.assert_allclose(rotated, rotated.round(), atol=1e-3)
    assert set(np.abs(rotated).round().astype(int)) <= set(range(1, 21))
    assert len(set(rotated.round())) > 30
    assert abs(len(rotated) / len(KEYS) - 0.25) < 0.04
    quarters = matrices[mirrored].round().astype(int)
    np.testing.assert_allclose(matrices[mirrored], quarters, atol=1e-5)
    assert len({quarter.tobytes() for quarter in quarters}) == 4


def test_samed_is_exact_where_pixels_fall_on_pixels() -> None:
    images = torch.rand(24, 1, N, N)
    targets = torch.randint(-1, 5, (24, N, N))
    moved, labels = apply_augmentation(
        images, targets, draw_augmentation(KEYS[:24], N, SAMED, (True, True), seed=0, epoch=0)
    )
    ways = [lambda x, k=k, a=a: torch.rot90(x, k, (-2, -1)).flip(a) for k in range(4) for a in (-2, -1)]
    exact = [
        any(
            torch.allclose(moved[i], way(images[i]), atol=1e-4) and torch.equal(labels[i], way(targets[i]))
            for way in ways
        )
        for i in range(24)
    ]
    assert 6 <= sum(exact) <= 18


def test_samed_does_not_mirror_where_the_plan_forbids_it() -> None:
    determinants = np.linalg.det(linear_parts(coordinates(SAMED, flips=False)))
    np.testing.assert_allclose(determinants, 1, atol=1e-5)


def test_hsam_draws_one_kind_in_its_shares() -> None:
    where = coordinates(HSAM)
    affine = is_affine(where)
    matrices = linear_parts(where)
    sides = np.sqrt(np.abs(np.linalg.det(matrices)))
    cropped = affine & (sides < 0.9)
    still = affine & (np.abs(matrices - np.eye(2)).max(axis=(1, 2)) < 1e-5)
    rotated = affine & ~cropped & ~still
    # A rotation by 0 of -20 to 19 degrees looks as if nothing was done.
    shares = {"rotated": 0.45 * 39 / 40, "cropped": 0.4125, "elastic": 0.1169}
    found = {"rotated": rotated.mean(), "cropped": cropped.mean(), "elastic": (~affine).mean()}
    assert found == pytest.approx(shares, abs=0.04)
    assert 0.2 <= sides[cropped].min() < 0.22
    assert 0.78 < sides[cropped].max() <= 0.8
    assert np.abs(where[cropped]).max() <= 0.5
    assert np.abs(angles(matrices[rotated])).max() == pytest.approx(20, abs=1e-3)


def test_hsams_elastic_slices_are_mirrored_at_their_border() -> None:
    where = coordinates(HSAM)
    bent = where[~is_affine(where)]
    assert 0.49 < np.abs(bent).max() <= 0.5
    moved = bent - coordinates(AugmentationSettings(scheme="composed", rotation=0, flip=0, scale=(1, 1), elastic=0))[:1]
    # Points of an affine map move by up to 0.08 of the side, more outside their triangle; displacements have 0.018.
    assert 0.02 < moved[:, :, 4:-4, 4:-4].std() < 0.08


def test_a_slice_is_drawn_alike_in_every_order() -> None:
    first = draw_augmentation(KEYS[:8], N, HSAM, (True, True), seed=3, epoch=2).coordinates
    second = draw_augmentation(KEYS[:8][::-1], N, HSAM, (True, True), seed=3, epoch=2).coordinates
    assert torch.equal(first, second.flip(0))
