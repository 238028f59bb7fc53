from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.studies.degradation import KINDS, LEVELS, STRENGTHS, Kind, degrade

SPACING = (0.5, 0.5, 2.0)


def worse(array: np.ndarray, kind: Kind, level: int, seed: int = 0) -> np.ndarray:
    return degrade(array, kind, level, spacing=SPACING, plane=(0, 1), seed=seed)


@pytest.mark.parametrize("level", LEVELS)
def test_noise_has_its_share_of_the_range(level: int) -> None:
    array = np.random.default_rng(1).uniform(0, 1000, (40, 40, 40)).astype(np.float32)
    added = worse(array, "noise", level) - array
    low, high = np.percentile(array, [0.5, 99.5])
    assert added.std() == pytest.approx(STRENGTHS["noise"][level - 1] * (high - low), rel=0.02)
    assert abs(added.mean()) < 0.02 * added.std() + 0.5


def test_noise_is_repeated_by_its_seed_alone() -> None:
    array = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    assert np.array_equal(worse(array, "noise", 2, 5), worse(array, "noise", 2, 5))
    assert not np.array_equal(worse(array, "noise", 2, 5), worse(array, "noise", 2, 6))


def test_blur_is_a_gaussian_in_millimetres() -> None:
    array = np.zeros((61, 61, 31))
    array[30, 30, 15] = 1.0
    blurred = worse(array, "blur", 4)
    offsets = [(np.arange(size) - size // 2) * step for size, step in zip(array.shape, SPACING, strict=True)]
    for axis, offset in enumerate(offsets):
        profile = blurred.sum(axis=tuple({0, 1, 2} - {axis}))
        assert math.sqrt((profile * offset**2).sum()) == pytest.approx(STRENGTHS["blur"][3], rel=0.02)


@pytest.mark.parametrize("level", LEVELS)
def test_downsampling_keeps_a_ramp_and_its_position(level: int) -> None:
    """Averaging and interpolating linearly leaves a linear slice where it was, but for its border."""
    x, y = np.meshgrid(np.arange(48.0), np.arange(48.0), indexing="ij")
    array = np.repeat((2 * x - 3 * y)[..., None], 4, axis=2)
    edge = int(STRENGTHS["downsampling"][level - 1])
    inside = (slice(edge, -edge), slice(edge, -edge))
    assert np.allclose(worse(array, "downsampling", level)[inside], array[inside])


def test_downsampling_forgets_fine_detail_in_the_slice_only() -> None:
    checkers = np.indices((16, 16, 16)).sum(axis=0) % 2 * 100.0
    assert np.allclose(worse(checkers, "downsampling", 1), 50.0)
    stripes = np.zeros((16, 16, 16)) + np.arange(16) % 2 * 100.0
    assert np.allclose(worse(stripes, "downsampling", 5), stripes)


def test_downsampling_takes_sizes_that_are_no_multiple() -> None:
    array = np.random.default_rng(0).normal(size=(13, 11, 3))
    assert worse(array, "downsampling", 3).shape == array.shape


@pytest.mark.parametrize("kind", KINDS)
def test_each_level_is_worse_than_the_one_before(kind: Kind) -> None:
    array = ndimage.gaussian_filter(np.random.default_rng(2).normal(size=(48, 48, 12)), 1.0)
    errors = [float(np.abs(worse(array, kind, level) - array).mean()) for level in LEVELS]
    assert errors == sorted(errors)
    assert errors[0] > 0


def test_whole_numbers_stay_in_the_range_of_their_type() -> None:
    array = np.zeros((20, 20, 20), np.uint8)
    array[:10] = 255
    noisy = worse(array, "noise", 5)
    assert noisy.dtype == np.uint8
    assert np.median(noisy[:10]) > 200
    assert np.median(noisy[10:]) < 60
