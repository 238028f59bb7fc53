"""Arrays by name: what is read, and that damage is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dataset_conversion.array_files import read_arrays
from samora_pipeline.errors import DataError

ARRAYS: dict[str, Any] = {
    "image": np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32),
    "label": np.arange(1200, dtype=np.uint8).reshape(40, 30),
}


def _write(path: Path) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **ARRAYS)
        return path
    with h5py.File(path, "w") as file:
        for name, array in ARRAYS.items():
            file.create_dataset(name, data=array)
    return path


@pytest.fixture(params=["case.npz", "case.npy.h5"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return _write(tmp_path / request.param)


def _code(path: Path, *names: str) -> str:
    with pytest.raises(DataError) as caught:
        read_arrays(path, *names)
    return caught.value.code


def test_arrays_come_in_the_order_asked_for(path: Path) -> None:
    label, image = read_arrays(path, "label", "image")
    np.testing.assert_array_equal(label, ARRAYS["label"])
    np.testing.assert_array_equal(image, ARRAYS["image"])
    assert label.dtype == np.uint8
    assert image.dtype == np.float32


def test_missing_files_and_arrays(path: Path) -> None:
    assert _code(path, "image", "mask") == "E-ARRAY-01"
    assert _code(path.with_name("other.npz"), "image") == "E-IMG-01"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_damaged(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert _code(path, "image", "label") == "E-IMG-02"


def test_a_flipped_bit_in_an_archive_is_found(tmp_path: Path) -> None:
    path = _write(tmp_path / "case.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert _code(path, "image", "label") == "E-IMG-02"


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "case.npz"
    np.savez(path, image=np.array([{"a": 1}], dtype=object))
    assert _code(path, "image") == "E-IMG-02"


def test_an_array_that_claims_more_than_its_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "case.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("image", shape=(1 << 12, 1 << 12, 1 << 5), dtype="f4", chunks=(64, 64, 32))
    assert _code(path, "image") == "E-IMG-02"


def test_hdf5_never_leads_to_another_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as stored:
        stored["image"] = np.arange(6)
    with h5py.File(tmp_path / "link.h5", "w") as stored:
        stored["image"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "image")
    with pytest.raises(DataError) as caught:
        read_arrays(tmp_path / "link.h5", "image")
    assert caught.value.code == "E-ARRAY-01"
    layout = h5py.VirtualLayout(shape=(6,), dtype="i8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "image", shape=(6,))
    with h5py.File(tmp_path / "virtual.h5", "w") as stored:
        stored.create_virtual_dataset("image", layout)
    with h5py.File(tmp_path / "text.h5", "w") as stored:
        stored["image"] = ["a", "b"]
    for name in ("virtual.h5", "text.h5"):
        with pytest.raises(DataError) as caught:
            read_arrays(tmp_path / name, "image")
        assert caught.value.code == "E-IMG-03"
