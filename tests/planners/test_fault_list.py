"""Every fault a scan can have, one by one: code, message, exit 4, its place in integrity.json, and nothing written.

The doubtful ones (last part) do not stop the work; they are named with a code, and the voxels stay what the file says.
"""

import gzip
import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from planners.cli import main
from samora_pipeline.contracts.integrity import INTEGRITY_FILE, IntegrityReport
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.imaging.volume import to_raw_grid
from samora_pipeline.slices.store import StoredSlices
from tests.raw_data import AFFINE, load, make_raw_dataset, save, written

NAME = "Dataset007_Boxes"
Change = Callable[[Path], None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_raw_dataset(tmp_path / "raw" / NAME, cases=3, shape=(24, 22, 10))
    return tmp_path


def image(root: Path) -> Path:
    return root / "raw" / NAME / "imagesTr/case_01_0000.nii.gz"


def label(root: Path) -> Path:
    return root / "raw" / NAME / "labelsTr/case_01.nii.gz"


def report(root: Path) -> IntegrityReport:
    return read_json(IntegrityReport, root / "preprocessed" / NAME / INTEGRITY_FILE)


def cut(share: float, behind: int = 0) -> Change:
    def change(root: Path) -> None:
        content = image(root).read_bytes()
        image(root).write_bytes(content[: int(len(content) * share) - behind])

    return change


def flip(position: float, last: int = 0) -> Change:
    def change(root: Path) -> None:
        content = bytearray(image(root).read_bytes())
        content[-last if last else int(len(content) * position)] ^= 0x20
        image(root).write_bytes(content)

    return change


def header(path: Callable[[Path], Path], form: str, offset: int, *values: float) -> Change:
    """Values written into the header (bytes of the decoded file), everything else as it was."""

    def change(root: Path) -> None:
        content = bytearray(gzip.decompress(path(root).read_bytes()))
        struct.pack_into(form, content, offset, *values)
        path(root).write_bytes(gzip.compress(bytes(content)))

    return change


def content(path: Callable[[Path], Path], make: Callable[[bytes], bytes]) -> Change:
    def change(root: Path) -> None:
        path(root).write_bytes(make(path(root).read_bytes()))

    return change


def voxels(path: Callable[[Path], Path], make: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(root: Path) -> None:
        save(path(root), make(load(path(root))))

    return change


def grid(path: Callable[[Path], Path], make: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(root: Path) -> None:
        save(path(root), load(path(root)), make(AFFINE.copy()))

    return change


def put(value: float, kind: type) -> Callable[[np.ndarray], np.ndarray]:
    def make(array: np.ndarray) -> np.ndarray:
        array = array.astype(kind)
        array[5, 6, 7] = value
        return array

    return make


def scaled(slope: float, intercept: float) -> Change:
    """The label map as a scaled file: stored values as before, its header multiplies and adds."""

    def change(root: Path) -> None:
        stored = nibabel.Nifti1Image(load(label(root)), AFFINE)
        nibabel.save(stored, label(root))
        header(label, "<2f", 112, slope, intercept)(root)

    return change


def moved(matrix: np.ndarray) -> np.ndarray:
    matrix[1, 3] += 0.9
    return matrix


def sheared(matrix: np.ndarray) -> np.ndarray:
    matrix[0, 1] = 0.4
    return matrix


def dangling(root: Path) -> None:
    image(root).unlink()
    image(root).symlink_to("nowhere.nii.gz")


def folder_instead(root: Path) -> None:
    image(root).unlink()
    image(root).mkdir()


TRUNCATED = r"case_01_0000.nii.gz is truncated or damaged"
FAULTS: dict[str, tuple[Change, str, str]] = {
    **{f"cut at {share:.0%}": (cut(share), "E-IMG-02", TRUNCATED) for share in (0.0, 0.05, 0.3, 0.6, 0.9, 0.99)},
    **{f"last {count} bytes cut": (cut(1.0, count), "E-IMG-02", TRUNCATED) for count in (1, 4, 8)},
    **{f"bit flipped at {share:.0%}": (flip(share), "E-IMG-02", TRUNCATED) for share in (0.3, 0.7)},
    "checksum flipped": (flip(0, last=6), "E-IMG-02", "incorrect data check"),
    "length flipped": (flip(0, last=2), "E-IMG-02", "incorrect length check"),
    "foreign bytes behind": (content(image, lambda old: old + b"rubbish"), "E-IMG-02", "incorrect header check"),
    "not gzip": (content(image, lambda _: b"<!DOCTYPE html>"), "E-IMG-02", "no gzip stream"),
    "label truncated": (content(label, lambda old: old[:-5]), "E-IMG-02", r"case_01\.nii\.gz is truncated"),
    "more voxels than data": (header(image, "<h", 46, 11), "E-IMG-02", r"10,912|claimed|end after"),
    "more data than voxels": (header(image, "<h", 46, 9), "E-IMG-02", "more than the"),
    "header bomb": (header(image, "<8h", 40, 3, 30000, 30000, 30000, 1, 1, 1, 1), "E-IMG-03", "claims 54,0"),
    "wrong magic": (header(image, "<4s", 344, b"xyz\0"), "E-IMG-03", "a NIfTI-1 or NIfTI-2 file"),  # type: ignore[arg-type]
    "colour": (header(image, "<h", 70, 128), "E-IMG-03", "whole or real numbers"),
    "size zero": (header(image, "<h", 42, 0), "E-IMG-03", r"sizes \(0, 22, 10\)"),
    "five axes": (voxels(image, lambda old: np.stack([np.stack([old] * 2, -1)] * 2, -1)), "E-IMG-03", "5 dimensions"),
    "four axes": (voxels(image, lambda old: np.stack([old] * 2, -1)), "E-CHAN-06", "24 x 22 x 10 x 2"),
    "label of four axes": (voxels(label, lambda old: np.stack([old] * 2, -1)), "E-LABEL-02", "a single 3-D volume"),
    "NaN": (voxels(image, put(np.nan, np.float32)), "E-IMG-05", "1 of 5280 voxels"),
    "infinite": (voxels(image, put(-np.inf, np.float64)), "E-IMG-05", "NaN or infinite.*1 of 5280 voxels"),
    "sheared": (grid(image, sheared), "E-IMG-04", "not at right angles"),
    "axis of length zero": (header(image, "<4f", 280, 0, 0, 0, 0), "E-IMG-04", "length zero"),
    "affine with NaN": (header(image, "<f", 280, np.nan), "E-IMG-04", "not finite"),
    "label of another shape": (voxels(label, lambda old: old[1:]), "E-GEO-01", "23 x 22 x 10.*24 x 22 x 10"),
    "label of another position": (grid(label, moved), "E-GEO-02", "corners are off by 0.9 mm"),
    "label of another spacing": (
        grid(label, lambda old: old @ np.diag([1.02, 1, 1, 1])),
        "E-GEO-02",
        r"\(1.53, 1.5, 4\)",
    ),
    "label of another direction": (grid(label, lambda old: old @ np.diag([1, -1, 1, 1])), "E-GEO-02", "axes LPS.*LAS"),
    "labels with fractions": (voxels(label, put(1.5, np.float32)), "E-LABEL-02", "1 voxels such as 1.5"),
    "labels just below": (voxels(label, put(1.9999, np.float32)), "E-LABEL-02", "whole numbers"),
    "labels with NaN": (voxels(label, put(np.nan, np.float32)), "E-LABEL-02", "nan"),
    "negative labels": (voxels(label, put(-1, np.int16)), "E-LABEL-02", "values from -1 to 2"),
    "labels above 255": (voxels(label, put(300, np.int16)), "E-LABEL-02", "values from 0 to 300"),
    "undeclared labels": (voxels(label, put(9, np.uint8)), "E-LABEL-09", r"9 \(1 voxels\).*0, 1, 2"),
    "labels scaled to fractions": (scaled(1 / 255, 0), "E-LABEL-02", r"scl_slope 0.00392"),
    "labels scaled to others": (scaled(3, 0), "E-LABEL-09", r"3 \(\d+ voxels\), 6 \(\d+ voxels\)"),
    "a link to nowhere": (dangling, "E-IMG-07", "cannot be read.*nowhere"),
    "a folder": (folder_instead, "E-IMG-07", "cannot be read"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_stops_the_command_before_anything_is_written(
    root: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, code, message = FAULTS[name]
    change(root)
    assert main(["--root", str(root), "-d", "7"]) == 4
    error = capsys.readouterr().err
    error = error[error.index("E-") :]
    assert error.startswith(code)
    assert re.search(message, error, re.DOTALL), error
    assert "case_01" in error
    assert "--skip-invalid" in error
    assert "Traceback" not in error
    assert not written(root)
    found = report(root)
    assert (found.cases, found.skipped) == (3, False)
    assert [(fault.case, fault.code) for fault in found.faults] == [("case_01", code)]
    assert found.faults[0].what in error
    assert not list((root / "preprocessed").rglob("*case_01*"))


@pytest.mark.parametrize("name", ["last 4 bytes cut", "NaN", "sheared", "labels scaled to others", "a link to nowhere"])
def test_one_bad_case_never_stops_the_others(root: Path, name: str) -> None:
    FAULTS[name][0](root)
    assert main(["--root", str(root), "-d", "7", "--skip-invalid"]) == 3
    folder = root / "preprocessed" / NAME
    assert sorted(path.stem for path in (folder / "slices").glob("*.json")) == ["case_00", "case_02"]
    for case in ("case_00", "case_02"):
        StoredSlices.open(folder / "slices", case).verify()
    assert report(root).skipped
    assert json.loads((folder / "dataset_fingerprint.json").read_text())["skipped"] == {"case_01": FAULTS[name][1]}


def test_a_short_file_without_compression(root: Path) -> None:
    raw = root / "raw" / NAME
    for path in [*raw.rglob("*.nii.gz")]:
        path.with_name(path.name.removesuffix(".gz")).write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    description = raw / "dataset.json"
    description.write_text(description.read_text().replace(".nii.gz", ".nii"))
    assert main(["--root", str(root), "-d", "7"]) == 0
    shutil.rmtree(root / "preprocessed")
    path = raw / "imagesTr/case_01_0000.nii"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["--root", str(root), "-d", "7"]) == 4
    assert [fault.code for fault in report(root).faults] == ["E-IMG-02"]
    assert not written(root)


def test_all_faults_of_all_cases_stand_in_one_table_and_in_the_report(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FAULTS["infinite"][0](root)
    FAULTS["undeclared labels"][0](root)
    other = root / "raw" / NAME / "imagesTr/case_02_0000.nii.gz"
    other.write_bytes(other.read_bytes()[:100])
    assert main(["--root", str(root), "--verify-only"]) == 4
    error = capsys.readouterr().err
    expected = [("case_01", "E-IMG-05"), ("case_01", "E-LABEL-09"), ("case_02", "E-IMG-02")]
    assert [tuple(line.split()[:2]) for line in error.splitlines() if line.startswith("    case")] == expected
    assert [(fault.case, fault.code) for fault in report(root).faults] == expected
    assert all(fault.found and fault.expected and fault.fix for fault in report(root).faults)
    assert "integrity.json" in error
    assert not written(root)


def qform(root: Path) -> None:
    both = nibabel.load(image(root))
    other = AFFINE.copy()
    other[2, 3] += 3.5
    both.set_sform(AFFINE, 1)
    both.set_qform(other, 1)
    nibabel.save(both, image(root))


def only_background(array: np.ndarray) -> np.ndarray:
    return np.zeros_like(array)


DOUBTS: dict[str, tuple[Change, str, str]] = {
    "two affines": (qform, "W-GEO-01", "sform and qform disagree by 3.5 mm"),
    "other voxel sizes": (header(image, "<3f", 80, 1, 1, 1), "W-GEO-01", "pixdim differ from 1.5 x 1.5 x 4"),
    "one value": (voxels(image, lambda old: np.full_like(old, 7)), "W-IMG-01", "all voxels have the same value"),
    "no foreground": (voxels(label, only_background), "W-LABEL-01", "holds no foreground"),
    "labels scaled to whole numbers": (scaled(-1, 2), "W-LABEL-02", r"scl_slope -1, scl_inter 2"),
    "not Hounsfield units": (voxels(image, lambda old: old - old.min()), "W-HU-01", "in 1 of 3 cases.*air is -1000"),
    "a channel in [0, 1]": (
        voxels(image, lambda old: (old - old.min()) / np.ptp(old)),
        "W-HU-01",
        "values from 0 to 1",
    ),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_a_doubt_is_named_and_changes_nothing(root: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, code, message = DOUBTS[name]
    change(root)
    for _ in range(2):
        assert main(["--root", str(root), "-d", "7"]) == 0
        assert re.search(message, capsys.readouterr().out)
        remarks = [remark for remark in report(root).remarks if remark.code == code]
        assert len(remarks) == 1
        assert remarks[0].case == ("" if code == "W-HU-01" else "case_01")
        assert report(root).faults == ()
    stored = StoredSlices.open(root / "preprocessed" / NAME / "slices", "case_01")
    indices = range(len(stored))
    images = np.stack([stored.image(index)[0] for index in indices])
    labels = np.stack([stored.labels(index) for index in indices])
    kind = images.dtype
    np.testing.assert_array_equal(to_raw_grid(images, stored.record.geometry), load(image(root)).astype(kind))
    np.testing.assert_array_equal(to_raw_grid(labels, stored.record.geometry), load(label(root)))


@pytest.mark.parametrize("shape", [(24, 22, 1), (1, 22, 10)])
def test_a_single_slice_is_a_volume(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    raw = make_raw_dataset(tmp_path / "raw" / NAME, cases=2, shape=(24, 22, 10))
    for path in [*raw.rglob("*.nii.gz")]:
        save(path, load(path)[: shape[0], :, : shape[2]])
    assert main(["--root", str(tmp_path)]) == 0
