import gzip
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from planners.cli import main
from samora_pipeline.imaging.files import write_volume
from samora_pipeline.imaging.volume import make_grid
from samora_pipeline.slices.store import StoredSlices
from tests.raw_data import AFFINE, load, make_raw_dataset, save, written


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_raw_dataset(tmp_path / "raw" / "Dataset007_Boxes", cases=4, channels=("CT", "MR"))
    return tmp_path


def image(root: Path, case: str = "case_01", channel: int = 0) -> Path:
    return root / f"raw/Dataset007_Boxes/imagesTr/{case}_{channel:04d}.nii.gz"


def label(root: Path, case: str = "case_01") -> Path:
    return root / f"raw/Dataset007_Boxes/labelsTr/{case}.nii.gz"


def undeclared_label(root: Path) -> None:
    voxels = load(label(root))
    voxels[3, 3, 3] = 9
    save(label(root), voxels)


def not_a_number(root: Path) -> None:
    voxels = load(image(root)).astype(np.float32)
    voxels[1, 1, 1] = np.nan
    save(image(root), voxels)


def infinite(root: Path) -> None:
    voxels = load(image(root, channel=1)).astype(np.float32)
    voxels[1, 1, 1] = np.inf
    save(image(root, channel=1), voxels)


def truncated_image(root: Path) -> None:
    content = image(root).read_bytes()
    image(root).write_bytes(content[: len(content) // 2])


def truncated_label(root: Path) -> None:
    label(root).write_bytes(label(root).read_bytes()[:-4])


def other_shape(root: Path) -> None:
    save(label(root), load(label(root))[:-1])


def other_affine(root: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 0.75
    save(label(root), load(label(root)), moved)


def flipped_channel(root: Path) -> None:
    save(image(root, channel=1), load(image(root, channel=1)), AFFINE @ np.diag([-1, 1, 1, 1]))


def missing_channel(root: Path) -> None:
    image(root, channel=1).unlink()


def extra_channel(root: Path) -> None:
    shutil.copy(image(root), image(root, channel=2))


def no_channel_number(root: Path) -> None:
    shutil.copy(image(root), image(root).with_name("scan.nii.gz"))


def fractions(root: Path) -> None:
    save(label(root), load(label(root)) + np.float32(0.25))


def four_axes(root: Path) -> None:
    save(image(root), np.stack([load(image(root))] * 2, -1))


def zero_size(root: Path) -> None:
    content = bytearray(gzip.decompress(image(root).read_bytes()))
    content[42:44] = b"\0\0"
    image(root).write_bytes(gzip.compress(bytes(content)))


def not_an_image(root: Path) -> None:
    image(root).write_bytes(b"<!DOCTYPE html>")


def two_folders(root: Path) -> None:
    target = root / "raw/Dataset007_Boxes/imagesTs"
    target.mkdir()
    for channel in (0, 1):
        shutil.copy(image(root, channel=channel), target)


FAULTS = {
    undeclared_label: ("E-LABEL-09", r"case_01.*does not declare.*9 \(1 voxels\).*0, 1, 2"),
    not_a_number: ("E-IMG-05", "case_01_0000.*NaN.*1 of 2160"),
    infinite: ("E-IMG-05", "case_01_0001.*infinite"),
    truncated_image: ("E-IMG-02", "case_01_0000.*truncated"),
    truncated_label: ("E-IMG-02", "case_01.*truncated"),
    other_shape: ("E-GEO-01", "19 x 18 x 6.*20 x 18 x 6"),
    other_affine: ("E-GEO-02", "off by 0.75 mm"),
    flipped_channel: ("E-GEO-02", "axes RAS.*axes LAS"),
    missing_channel: ("E-CHAN-01", r"case_01.*channels.*2 \(CT, MR\)"),
    extra_channel: ("E-CHAN-01", "case_01_0002"),
    no_channel_number: ("E-CHAN-02", "scan_0000.nii.gz"),
    fractions: ("E-LABEL-02", "0.25.*whole numbers"),
    four_axes: ("E-CHAN-06", "20 x 18 x 6 x 2"),
    zero_size: ("E-IMG-03", r"sizes \(0, 18, 6\)"),
    not_an_image: ("E-IMG-02", "case_01_0000"),
    two_folders: ("E-CASE-01", "imagesTr and imagesTs"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_one_sentence_exits_4_and_nothing_is_written(
    root: Path, fault: object, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    fault(root)  # type: ignore[operator]
    code, pattern = FAULTS[fault]  # type: ignore[index]
    assert main(["--root", str(root), "-d", "7"]) == 4
    error = capsys.readouterr().err
    message = error[error.index("E-") :]
    assert message.startswith(code)
    assert re.search(pattern, message, re.DOTALL), message
    assert "--skip-invalid" in message
    assert "Traceback" not in error
    assert not written(root)


@pytest.mark.parametrize(
    "fault", [not_a_number, other_affine, missing_channel, no_channel_number], ids=lambda fault: fault.__name__
)
def test_skip_invalid_leaves_the_case_out_and_exits_3(
    root: Path, fault: object, capsys: pytest.CaptureFixture[str]
) -> None:
    fault(root)  # type: ignore[operator]
    assert main(["--root", str(root), "-d", "7", "--skip-invalid"]) == 3
    error = capsys.readouterr().err
    assert "E-CASE-03" in error
    target = root / "preprocessed" / "Dataset007_Boxes"
    fingerprint = json.loads((target / "dataset_fingerprint.json").read_text())
    faulty = "scan" if fault is no_channel_number else "case_01"
    assert fingerprint["skipped"] == {faulty: FAULTS[fault][0]}  # type: ignore[index]
    stored = {path.stem for path in (target / "slices").glob("*.json")}
    assert stored == {"case_00", "case_01", "case_02", "case_03"} - {faulty}
    assert faulty not in json.loads((target / "splits.json").read_text())["folds"]["all"]["train"]


def test_all_offenders_stand_in_one_table(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    undeclared_label(root)
    infinite(root)
    voxels = load(image(root, "case_03"))
    image(root, "case_03").write_bytes(b"")
    assert voxels.size
    assert main(["--root", str(root), "-d", "7"]) == 4
    error = capsys.readouterr().err
    assert "E-DATA-02 2 of 4 cases of Dataset007_Boxes are faulty (3 faults); nothing was written" in error
    rows = [line.split()[:2] for line in error.splitlines() if line.startswith("    case")]
    assert sorted(rows) == [["case_01", "E-IMG-05"], ["case_01", "E-LABEL-09"], ["case_03", "E-IMG-02"]]
    assert not written(root)


def test_skip_invalid_cannot_leave_out_every_case(root: Path) -> None:
    for case in range(4):
        image(root, f"case_{case:02d}").write_bytes(b"")
    assert main(["--root", str(root), "-d", "7", "--skip-invalid"]) == 4
    assert not written(root)


def test_verify_only_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(root), "--verify-only"]) == 0
    assert "4 cases (4 train, 0 test, 0 unlabelled): no fault" in capsys.readouterr().out
    assert not written(root)
    undeclared_label(root)
    assert main(["--root", str(root), "--verify-only"]) == 4


def test_dataset_faults(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = root / "raw/Dataset007_Boxes/dataset.json"
    text = description.read_text()
    for broken, code in ((text.replace('"MR"', '"MRT"'), "E-CHAN-03"), ("{", "E-JSON-02"), (None, "E-DATA-01")):
        description.unlink()
        if broken:
            description.write_text(broken)
        assert main(["--root", str(root), "-d", "7"]) == 4
        error = capsys.readouterr().err
        assert error.startswith(code)
        if code == "E-CHAN-03":
            assert "--set intensity.1=percentiles" in error
        description.write_text(text)
    shutil.rmtree(root / "raw/Dataset007_Boxes/imagesTr")
    assert main(["--root", str(root), "-d", "7"]) == 4
    assert capsys.readouterr().err.startswith("E-DATA-04")
    assert not written(root)


def test_remarks_do_not_stop_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = {"background": 0, "organ": 1, "never": 5}
    raw = make_raw_dataset(tmp_path / "raw/Dataset007_Boxes", cases=3, test=("twin",), labels=labels)
    for path in (raw / "labelsTr").iterdir():
        save(path, np.minimum(load(path), 1))
    for path in (raw / "imagesTr").iterdir():
        save(path, np.clip(load(path) // 8 + 128, 0, 255).astype(np.uint8))
    save(raw / "labelsTr/case_01.nii.gz", np.zeros_like(load(raw / "labelsTr/case_01.nii.gz")))
    save(raw / "imagesTr/case_01_0000.nii.gz", np.full((20, 18, 6), 7, np.int16))
    shutil.copy(raw / "imagesTr/case_00_0000.nii.gz", raw / "imagesTs/twin_0000.nii.gz")
    save(raw / "labelsTr/lost.nii.gz", np.zeros((2, 2, 2), np.uint8))
    assert main(["--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for expected in (
        "case_01: its label map holds no foreground",
        "case_01: case_01_0000.nii.gz: all voxels have the same value",
        'channel 0 "CT" does not look like Hounsfield units in 4 of 4 cases',
        '"never" occurs in no label map',
        "the same scan under 2 names: case_00 (train), twin (test)",
        "1 label files have no image: lost.nii.gz",
    ):
        assert expected in out


def test_a_label_link_that_leads_nowhere_is_a_fault_of_its_case(root: Path) -> None:
    label(root).unlink()
    label(root).symlink_to("gone.nii.gz")
    assert main(["--root", str(root), "-d", "7"]) == 4
    report = json.loads((root / "preprocessed/Dataset007_Boxes/integrity.json").read_text())
    assert [(fault["case"], fault["code"]) for fault in report["faults"]] == [("case_01", "E-IMG-07")]
    assert "not there" in report["faults"][0]["found"]


def test_a_label_of_another_ending_is_a_fault_and_no_missing_label(root: Path) -> None:
    label(root).with_suffix("").write_bytes(gzip.decompress(label(root).read_bytes()))
    label(root).unlink()
    assert main(["--root", str(root), "-d", "7", "--skip-invalid"]) == 3
    failures = json.loads((root / "preprocessed/Dataset007_Boxes/failures.json").read_text())["cases"]
    assert {name: failure["code"] for name, failure in failures.items()} == {"case_01": "E-LABEL-14"}


def test_voxels_in_another_order_of_axes_are_stored_where_their_header_says(root: Path) -> None:
    assert main(["--root", str(root), "-d", "7"]) == 0
    slices = root / "preprocessed/Dataset007_Boxes/slices"
    before = [read_slices(slices, "case_01", index) for index in range(6)]
    for path in (label(root), image(root, channel=1)):
        nibabel.save(nibabel.load(path).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]])), path)
    assert main(["--root", str(root), "-d", "7"]) == 0
    for index, (pixels, labels) in enumerate(before):
        again = read_slices(slices, "case_01", index)
        np.testing.assert_array_equal(again[0], pixels)
        np.testing.assert_array_equal(again[1], labels)


def read_slices(folder: Path, case: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    stored = StoredSlices.open(folder, case)
    return stored.image(index), stored.labels(index)


def test_a_scan_without_spacing_in_a_dataset_in_mm_is_a_fault(tmp_path: Path) -> None:
    raw = make_raw_dataset(tmp_path / "raw" / "Dataset007_Boxes", cases=3)
    path = raw / "imagesTr/case_01_0000.nii.gz"
    voxels = load(path)
    write_volume(path, voxels, make_grid(voxels.shape, AFFINE, spacing_known=False))
    assert main(["--root", str(tmp_path), "-d", "7", "--skip-invalid"]) == 3
    target = tmp_path / "preprocessed/Dataset007_Boxes"
    assert json.loads((target / "failures.json").read_text())["cases"]["case_01"]["code"] == "E-GEO-03"
    (raw / "samora.json").write_text(json.dumps({"schema_version": 1, "spacing_known": False}))
    assert main(["--root", str(tmp_path), "-d", "7"]) == 0
    assert json.loads((target / "dataset_fingerprint.json").read_text())["cases"]["case_01"]["spacing"] is None
    assert not (target / "failures.json").exists()
