from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.affines import voxel_sizes

from samora_pipeline.contracts.plans import SLICE_AXES
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.volume import (
    Volume,
    label_array,
    labels_to_slices,
    make_grid,
    on_grid_of,
    to_raw_grid,
    to_slices,
)

GENERATOR = np.random.default_rng(3)


def rotation(angle: float, axis: int) -> np.ndarray:
    matrix = np.eye(3)
    first, second = [i for i in range(3) if i != axis]
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def affine(matrix: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3] = matrix @ np.diag(spacing)
    result[:3, 3] = (-30.0, 12.5, 7.0)
    return result


HEADERS = {
    "RAS": ((7, 6, 5), affine(np.eye(3))),
    "LAS": ((7, 6, 5), affine(np.diag([-1.0, 1.0, 1.0]))),
    "LPS": ((7, 6, 5), affine(np.diag([-1.0, -1.0, 1.0]), (0.7, 0.7, 5.0))),
    "PSR": ((7, 6, 5), affine(np.array([[0, 0, 1.0], [-1, 0, 0], [0, 1, 0]]))),
    "SAL": ((7, 6, 5), affine(np.array([[0, 0, -1.0], [0, 1, 0], [1, 0, 0]]), (3.0, 1.0, 1.0))),
    "IRP": ((7, 6, 5), affine(np.array([[0, 1.0, 0], [0, 0, -1], [-1, 0, 0]]))),
    "oblique": ((7, 6, 5), affine(rotation(0.4, 0) @ rotation(-0.3, 2))),
    "oblique permuted": ((7, 6, 5), affine(rotation(0.5, 1) @ np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]]))),
    "anisotropic": ((3, 40, 2), affine(np.eye(3), (4.0, 0.4, 9.0))),
    "one slice": ((9, 8, 1), affine(np.diag([1.0, -1.0, 1.0]))),
}


def volume(array: np.ndarray, matrix: np.ndarray, name: str = "case.nii.gz") -> Volume:
    return Volume(array, make_grid(array.shape, matrix), Path(name))


@pytest.mark.parametrize("header", HEADERS)
def test_axes_and_spacing_equal_nibabels(header: str) -> None:
    shape, matrix = HEADERS[header]
    grid = make_grid(shape, matrix)
    assert grid.axes == "".join(nibabel.aff2axcodes(matrix))
    np.testing.assert_allclose(np.array(grid.spacing), voxel_sizes(matrix))


@pytest.mark.parametrize("axis", SLICE_AXES)
@pytest.mark.parametrize("header", HEADERS)
def test_slices_equal_nibabels_reorientation_and_come_back(header: str, axis: str) -> None:
    shape, matrix = HEADERS[header]
    raw = GENERATOR.integers(0, 200, shape).astype(np.uint8)
    images, geometry = to_slices((volume(raw, matrix),), axis)  # type: ignore[arg-type]
    wanted = nibabel.orientations.axcodes2ornt(SLICE_AXES[axis])
    change = nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(matrix), wanted)
    expected = nibabel.orientations.apply_orientation(raw, change)
    assert images.shape[1] == 1
    np.testing.assert_array_equal(images[:, 0], expected)
    labels = labels_to_slices(volume(raw, matrix), geometry)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(to_raw_grid(labels, geometry), raw)
    scores = np.stack([labels, 255 - labels])
    np.testing.assert_array_equal(to_raw_grid(scores, geometry), np.stack([raw, 255 - raw]))


def test_geometry_names_the_spacing_between_slices() -> None:
    shape, matrix = HEADERS["SAL"]
    _, geometry = to_slices((volume(np.zeros(shape, np.uint8), matrix),), "axial")
    assert geometry.spacing == (3.0, 1.0, 1.0)
    assert geometry.raw_shape == shape


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.array([-1024, 3071], np.int16), np.int16),
        (np.array([0, 255], np.uint8), np.int16),
        (np.array([-1024.0, 3071.0], np.float64), np.int16),
        (np.array([0, 32767], np.uint16), np.int16),
        (np.array([0, 32768], np.uint16), np.float32),
        (np.array([0.5, 1.0], np.float32), np.float32),
        (np.array([0, 100000], np.int32), np.float32),
    ],
)
def test_the_stored_type_is_the_smallest_exact_one(array: np.ndarray, dtype: type) -> None:
    raw = array.reshape(2, 1, 1)
    images, _ = to_slices((volume(raw, np.eye(4)),), "axial")
    assert images.dtype == dtype
    np.testing.assert_array_equal(images.ravel(), array[::-1])


def test_channels_on_other_grids_are_refused() -> None:
    first = volume(np.zeros((7, 6, 5), np.uint8), np.eye(4), "first")
    moved = np.eye(4)
    moved[0, 3] = 0.5
    with pytest.raises(DataError, match="E-GEO-02"):
        to_slices((first, volume(np.zeros((7, 6, 5), np.uint8), moved)), "axial")
    with pytest.raises(DataError, match=r"(?s)E-GEO-01.*7 x 6 x 4.*7 x 6 x 5"):
        to_slices((first, volume(np.zeros((7, 6, 4), np.uint8), np.eye(4))), "axial")
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    with pytest.raises(DataError, match=r"(?s)E-GEO-02.*LAS.*RAS"):
        on_grid_of(first, volume(np.zeros((7, 6, 5), np.uint8), flipped))
    rounded = np.eye(4)
    rounded[0, 3] = 0.01
    on_grid_of(first, volume(np.zeros((7, 6, 5), np.uint8), rounded))


@pytest.mark.parametrize(
    ("values", "message"),
    [([0.0, 1.5], "1 voxels such as 1.5"), ([-1, 2], "-1 to 2"), ([0, 256], "0 to 256"), ([np.nan, 1.0], "nan")],
)
def test_label_maps_hold_whole_numbers(values: list[float], message: str) -> None:
    with pytest.raises(DataError, match=f"(?s)E-LABEL-02.*{message}"):
        label_array(volume(np.array(values).reshape(2, 1, 1), np.eye(4)))


def test_whole_floats_are_labels() -> None:
    found = label_array(volume(np.array([0.0, 3.0]).reshape(2, 1, 1), np.eye(4)))
    assert found.dtype == np.uint8
    assert found.ravel().tolist() == [0, 3]
