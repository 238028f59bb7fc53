"""Whole volumes to a coarser grid and back, against slow restatements and plain facts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from samora_pipeline.imaging.volume_map import VolumeMap, mean_operator


def slow_means(values: np.ndarray, target: int) -> list[float]:
    """Each target voxel by itself: neighbours weighed by a triangle, the outermost repeated beyond the edges."""
    source = len(values)
    width = max(1.0, source / target)
    result = []
    for position in range(target):
        centre = (position + 0.5) * source / target - 0.5
        total = weight = 0.0
        for place in range(-3 * source, 4 * source):
            share = max(0.0, 1 - abs(place - centre) / width)
            total += share * values[min(max(place, 0), source - 1)]
            weight += share
        result.append(total / weight)
    return result


@pytest.mark.parametrize(("source", "target"), [(20, 8), (7, 7), (5, 16), (1, 4), (30, 3)])
def test_a_voxel_is_the_mean_of_what_it_covers(source: int, target: int) -> None:
    values = np.random.default_rng(source).normal(size=source)
    assert mean_operator(source, target) @ values == pytest.approx(slow_means(values, target), abs=1e-6)


def test_a_volume_is_averaged_along_all_axes() -> None:
    slices = np.random.default_rng(0).random((9, 2, 20, 31)).astype(np.float32)
    way = VolumeMap.between((9, 20, 31), (4, 8, 16))
    found = way.image(lambda index: slices[index], 2)
    planes, rows, columns = (mean_operator(*sides) for sides in ((9, 4), (20, 8), (31, 16)))
    np.testing.assert_allclose(found, np.einsum("ds,hr,wc,skrc->kdhw", planes, rows, columns, slices), atol=1e-6)


def test_labels_are_those_of_the_nearest_voxel() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (10, 18, 24)).astype(np.uint8)
    found = VolumeMap.between((10, 18, 24), (8, 8, 16)).labels(lambda index: labels[index])
    scale = (8 / 10, 8 / 18, 16 / 24)
    assert np.array_equal(found, ndimage.zoom(labels, scale, order=0, mode="nearest", grid_mode=True))


def test_planes_without_a_labelled_slice_are_ignored() -> None:
    labels = np.arange(1, 9, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    found = VolumeMap.between((8, 4, 4), (4, 4, 4)).labels(lambda index: labels[index], [1, 6])
    assert found[:, 0, 0].tolist() == [2, -1, -1, 7]
    finer = VolumeMap.between((8, 4, 4), (16, 4, 4)).labels(lambda index: labels[index], [0])
    assert (finer[:, 0, 0] >= 0).sum() == 1
    all_of_them = VolumeMap.between((8, 4, 4), (16, 4, 4)).labels(lambda index: labels[index], range(8))
    assert (all_of_them >= 1).all()


def test_a_ramp_comes_back_where_it_was() -> None:
    way = VolumeMap.between((9, 20, 31), (4, 8, 16))
    for axis, operator in enumerate(way.logit_operators()):
        ramp = (np.arange(way.source[axis]) + 0.5) / way.source[axis]
        coarse = (np.arange(way.target[axis]) + 0.5) / way.target[axis]
        inside = (ramp > coarse[0]) & (ramp < coarse[-1])
        np.testing.assert_allclose((operator @ coarse)[inside], ramp[inside], atol=1e-6)
