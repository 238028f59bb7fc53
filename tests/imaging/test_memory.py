"""What a scan of thousands of slices is held by: views of its voxels, and no second copy."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from samora_pipeline.contracts.plans import IntensityRule
from samora_pipeline.imaging.byte_checks import DamagedError, inflate
from samora_pipeline.imaging.intensity import measure, normalize
from samora_pipeline.imaging.volume import Volume, labels_to_slices, make_grid, to_slices
from samora_pipeline.reporting.pictures import NormalizedSlices

AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])


def volume(dtype: type) -> Volume:
    array: npt.NDArray[Any] = np.asfortranarray(np.random.default_rng(0).integers(0, 200, (9, 8, 7)).astype(dtype))
    return Volume(array, make_grid(array.shape, AFFINE), Path("scan.nii.gz"))


def test_slices_of_one_channel_share_the_memory_of_their_volume() -> None:
    scan = volume(np.int16)
    slices, geometry = to_slices((scan,), "axial")
    assert np.shares_memory(slices, scan.array)
    labels = volume(np.uint8)
    assert np.shares_memory(labels_to_slices(labels, geometry), labels.array)
    two, _ = to_slices((scan, scan), "axial")
    np.testing.assert_array_equal(two[:, :1], slices)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_statistics_do_not_depend_on_how_voxels_lie(dtype: type) -> None:
    array: npt.NDArray[Any] = np.random.default_rng(1).integers(0, 250, (40, 50, 60)).astype(dtype)
    flipped = array[::-1, :, ::-1].transpose(2, 0, 1)
    expected, found = vars(measure(array)), vars(measure(flipped))
    assert found == pytest.approx(expected, rel=1e-12)
    assert expected["mean"] == pytest.approx(array.mean(dtype=np.float64))


def test_normalized_slices_are_those_of_the_whole_scan() -> None:
    slices, _ = to_slices((volume(np.int16),), "axial")
    rules = (IntensityRule("window", 10.0, 150.0),)
    whole = normalize(slices, rules, [measure(slices[:, 0])])
    lazy = NormalizedSlices(slices, rules)
    assert len(lazy) == len(whole)
    np.testing.assert_array_equal(lazy[3], whole[3])
    np.testing.assert_array_equal(lazy[3, 0], whole[3, 0])
    np.testing.assert_array_equal(lazy[[1, 4]], whole[[1, 4]])


@pytest.mark.parametrize("behind", [b"", b"\0" * 100_000])
def test_several_members_and_padding_are_decoded_in_pieces(behind: bytes) -> None:
    content = np.random.default_rng(2).integers(0, 9, 700_000).astype(np.uint8).tobytes()
    parts = [gzip.compress(content[at : at + 70_000]) for at in range(0, len(content), 70_000)]
    assert inflate(b"".join(parts) + behind, len(content)) == content


@pytest.mark.parametrize("change", [lambda data: data[:-9], lambda data: data + b"x" * 30, lambda data: data * 2])
def test_streams_that_are_cut_or_too_long_are_damaged(change: Callable[[bytes], bytes]) -> None:
    packed = gzip.compress(bytes(500_000))
    with pytest.raises((DamagedError, zlib.error)):
        inflate(change(packed), 500_000)
