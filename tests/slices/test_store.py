import json
import os
import pickle
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from samora_pipeline.contracts.fingerprint import IntensityStats
from samora_pipeline.contracts.json_io import write_json
from samora_pipeline.contracts.stored_case import SliceGeometry, StoredCase
from samora_pipeline.errors import DataError, ResourceError
from samora_pipeline.slices.store import StoredSlices, write_case
from tests.fake_run import make_plans

GEOMETRY = SliceGeometry(
    (6, 5, 4),
    ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)),
    (2, 1, 0),
    (False, True, True),
    (1.0, 1.0, 1.0),
)


def record(case: str = "case_1") -> StoredCase:
    return StoredCase(
        case,
        "train",
        (0, 0, 0),
        "",
        GEOMETRY,
        (IntensityStats(0.5, 0.1, 0.0, 1.0, 0.0, 0.5, 1.0),) * 2,
        (),
        None,
        "digest",
        {"organ": (1,)},
    )


def arrays(dtype: type) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    images: npt.NDArray[Any] = generator.integers(-1000, 1000, (4, 2, 5, 6)).astype(dtype)
    return images, generator.integers(0, 3, (4, 5, 6)).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_slices_come_back_as_written(tmp_path: Path, dtype: type) -> None:
    images, labels = arrays(dtype)
    written = write_case(tmp_path, record(), images, labels)
    stored = StoredSlices.open(tmp_path, "case_1")
    assert stored.record == written
    assert (len(stored), stored.record.shape, stored.record.dtype) == (4, (4, 5, 6), np.dtype(dtype).name)
    assert stored.record.label_pixels == {"organ": (1,)}
    for index in (2, 0, 3, 1):
        assert stored.image(index).dtype == dtype
        np.testing.assert_array_equal(stored.image(index), images[index])
        np.testing.assert_array_equal(stored.labels(index), labels[index])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["case_1.b2nd", "case_1.json", "case_1_label.b2nd"]


def test_a_case_without_labels(tmp_path: Path) -> None:
    images, labels = arrays(np.int16)
    write_case(tmp_path, record(), images, labels)
    write_case(tmp_path, record(), images, None)
    stored = StoredSlices.open(tmp_path, "case_1")
    assert not stored.labelled
    assert not (tmp_path / "case_1_label.b2nd").exists()
    with pytest.raises(DataError, match="E-STORE-03"):
        stored.labels(0)


def test_one_slice_per_chunk(tmp_path: Path) -> None:
    import blosc2

    images, labels = arrays(np.int16)
    write_case(tmp_path, record(), images, labels)
    assert blosc2.open(str(tmp_path / "case_1.b2nd")).chunks == (1, 2, 5, 6)


def test_stored_slices_travel_to_workers(tmp_path: Path) -> None:
    images, labels = arrays(np.int16)
    write_case(tmp_path, record(), images, labels)
    copy = pickle.loads(pickle.dumps(StoredSlices.open(tmp_path, "case_1")))
    np.testing.assert_array_equal(copy.image(1), images[1])


@pytest.mark.parametrize(("name", "read"), [("case_1.b2nd", "image"), ("case_1_label.b2nd", "labels")])
def test_no_flipped_byte_goes_unnoticed(tmp_path: Path, name: str, read: str) -> None:
    images, labels = arrays(np.int16)
    write_case(tmp_path, record(), images, labels)
    path = tmp_path / name
    intact = path.read_bytes()
    expected = images if read == "image" else labels
    noticed = []
    for position in range(0, len(intact), 7):
        path.write_bytes(intact[:position] + bytes([intact[position] ^ 0x55]) + intact[position + 1 :])
        try:
            stored = StoredSlices.open(tmp_path, "case_1")
            found = np.stack([getattr(stored, read)(index) for index in range(4)])
        except DataError as error:
            noticed.append(error)
        else:
            np.testing.assert_array_equal(found, expected)
    assert len(noticed) > 5
    assert {(error.code, "case_1" in error.what, "samora_plan" in error.fix) for error in noticed} == {
        ("E-STORE-02", True, True)
    }


def test_a_changed_slice_is_named(tmp_path: Path) -> None:
    images, labels = arrays(np.int16)
    write_case(tmp_path, record(), images, labels)
    intact = (tmp_path / "case_1.json").read_bytes()
    images[2, 1, 0, 0] += 1
    write_case(tmp_path, record(), images, labels)
    (tmp_path / "case_1.json").write_bytes(intact)
    stored = StoredSlices.open(tmp_path, "case_1")
    stored.image(1)
    with pytest.raises(DataError, match=r'(?s)E-STORE-02.*"case_1".*slice 2') as caught:
        stored.image(2)
    assert caught.value.exit_code == 4


def test_truncated_and_missing_files(tmp_path: Path) -> None:
    images, labels = arrays(np.int16)
    write_case(tmp_path, record(), images, labels)
    path = tmp_path / "case_1.b2nd"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="E-STORE-02"):
        StoredSlices.open(tmp_path, "case_1").image(3)
    path.unlink()
    with pytest.raises(DataError, match="E-STORE-02"):
        StoredSlices.open(tmp_path, "case_1")
    with pytest.raises(DataError, match="E-STORE-01"):
        StoredSlices.open(tmp_path, "case_2")


def test_a_full_disk_leaves_no_case_and_no_part_of_one(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(8, 1, 64, 64)).astype(np.float32)
    labels = np.zeros((8, 64, 64), np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 1000, 20000, 90000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(ResourceError, match="E-DISK-01"):
                write_case(tmp_path, record(), images, labels)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not list(tmp_path.iterdir())
    write_case(tmp_path, record(), images, labels)
    StoredSlices.open(tmp_path, "case_1").verify()


def test_reading_needs_no_image_library() -> None:
    program = (
        "import sys, samora_pipeline.slices.store; print([m for m in ('nibabel', 'SimpleITK') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_record_that_was_edited_is_damaged(tmp_path: Path) -> None:
    images, labels = arrays(np.int16)
    write_case(tmp_path, record(), images, labels)
    path = tmp_path / "case_1.json"
    plain = json.loads(path.read_text())
    plain["intensities"][0]["percentile_00_5"] = 0.25
    path.write_text(json.dumps(plain))
    with pytest.raises(DataError, match="E-STORE-02"):
        StoredSlices.open(tmp_path, "case_1")


def test_a_record_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    images, labels = arrays(np.int16)
    write_case(tmp_path, record(), images, labels)
    path = tmp_path / "case_1.json"
    plain = json.loads(path.read_text())
    assert len(plain.pop("digest")) == 64
    path.write_text(json.dumps(plain))
    assert len(StoredSlices.open(tmp_path, "case_1")) == 4


def test_slices_of_another_axis_are_refused(tmp_path: Path) -> None:
    images, labels = arrays(np.int16)
    write_case(tmp_path, record(), images, labels)
    stored = StoredSlices.open(tmp_path, "case_1")
    stored.require_axis("axial")
    with pytest.raises(DataError, match="E-STORE-04"):
        stored.require_axis("coronal")


def test_the_fix_keeps_what_was_typed_for_the_plan(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset007_Liver" / "slices"
    images, labels = arrays(np.int16)
    write_case(folder, record(), images, labels)
    write_json(
        replace(make_plans(), overrides={"slice_axis": "coronal", "intensity.0": "window:-1,2"}, planner="mine:P"),
        folder.parent / "plans.json",
    )
    (folder / "case_1.b2nd").write_bytes(b"damaged")
    with pytest.raises(DataError) as caught:
        StoredSlices.open(folder, "case_1")
    words = "samora_plan_and_preprocess -d Dataset007_Liver --planner mine:P --set slice_axis=coronal"
    assert caught.value.fix == f"{words} --set intensity.0=window:-1,2  writes it again"
    (folder.parent / "plans.json").write_text("{")
    with pytest.raises(DataError) as caught:
        StoredSlices.open(folder, "case_1")
    assert caught.value.fix == "samora_plan_and_preprocess -d Dataset007_Liver  writes it again"


@pytest.mark.parametrize("name", ["case_1.b2nd", "case_1_label.b2nd", "case_1.json"])
def test_a_pipe_in_place_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    images, labels = arrays(np.int16)
    write_case(tmp_path, record(), images, labels)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="E-STORE-0"):
        StoredSlices.open(tmp_path, "case_1")
