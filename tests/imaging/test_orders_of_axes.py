"""Volumes of one place whose voxels are stored in different orders: brought together without resampling."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest

from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.volume import Volume, make_grid, on_grid_of, to_slices

SHAPE = (7, 6, 5)
COS, SIN = np.cos(0.2), np.sin(0.2)
OBLIQUE = np.array([[-0.8 * COS, 0.9 * SIN, 0, 3], [-0.8 * SIN, -0.9 * COS, 0, 5], [0, 0, 2.5, -7], [0, 0, 0, 1]])
ORDERS = [
    np.column_stack([order, flips])
    for order in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


def volume(array: np.ndarray, affine: np.ndarray) -> Volume:
    return Volume(array, make_grid(array.shape, affine), Path("a"))


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_every_order_comes_back_to_that_of_the_scan(order: np.ndarray, tmp_path: Path) -> None:
    stored = np.random.default_rng(1).integers(0, 9, SHAPE).astype(np.uint8)
    scan = volume(np.zeros(SHAPE, np.int16), OBLIQUE)
    nibabel.save(nibabel.Nifti1Image(stored, OBLIQUE).as_reoriented(order), tmp_path / "labels.nii.gz")
    placed = on_grid_of(scan, read_volume(tmp_path / "labels.nii.gz"))
    np.testing.assert_array_equal(placed.array, stored)
    assert placed.grid.matches(scan.grid)


def test_what_lies_elsewhere_is_refused_in_any_order() -> None:
    scan = volume(np.zeros(SHAPE, np.int16), OBLIQUE)
    shifted = OBLIQUE.copy()
    shifted[0, 3] += 1
    turned = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), shifted).as_reoriented(ORDERS[9])
    with pytest.raises(DataError, match="E-GEO-0"):
        on_grid_of(scan, volume(np.asarray(turned.dataobj), turned.affine))


def test_channels_in_another_order_are_one_case() -> None:
    first = np.random.default_rng(2).integers(0, 99, SHAPE).astype(np.int16)
    turned = nibabel.Nifti1Image(first + 100, OBLIQUE).as_reoriented(ORDERS[13])
    slices, _ = to_slices((volume(first, OBLIQUE), volume(np.asarray(turned.dataobj), turned.affine)), "axial")
    np.testing.assert_array_equal(slices[:, 1], slices[:, 0] + 100)
