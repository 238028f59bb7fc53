import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from planners.cli import main
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.contracts.fingerprint import Fingerprint
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.splits import Splits
from samora_pipeline.files import exclusive
from samora_pipeline.imaging.volume import to_raw_grid
from samora_pipeline.slices.store import StoredSlices
from tests.raw_data import load, make_raw_dataset, save, tree

NAME = "Dataset007_Boxes"


def run(root: Path, *arguments: str) -> int:
    return main(["--root", str(root), "-d", "7", *arguments])


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "slices").iterdir()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_raw_dataset(
        tmp_path / "raw" / NAME, cases=5, test=1, unlabelled=1, channels=("CT", "MR"), samora={"origin": "x"}
    )
    return tmp_path


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_the_store_holds_the_raw_voxels_and_leads_back_to_them(root: Path, axis: str) -> None:
    assert run(root, "--set", f"slice_axis={axis}") == 0
    raw, target = root / "raw" / NAME, root / "preprocessed" / NAME
    names = {"case_03": "Tr", "test_00": "Ts", "free_00": "Un"}
    for name, folder in names.items():
        stored = StoredSlices.open(target / "slices", name)
        stack = np.stack([stored.image(index) for index in range(len(stored))])
        for channel in (0, 1):
            voxels = load(raw / f"images{folder}/{name}_{channel:04d}.nii.gz")
            np.testing.assert_array_equal(to_raw_grid(stack[:, channel], stored.record.geometry), voxels)
            own = stored.record.intensities[channel]
            low, high = own.percentile_00_5, own.percentile_99_5
            assert (low, high) == pytest.approx(np.percentile(voxels, (0.5, 99.5)))
            assert (own.minimum, own.maximum) == (voxels.min(), voxels.max())
        assert stored.labelled == (name != "free_00")
        if stored.labelled:
            labels = np.stack([stored.labels(index) for index in range(len(stored))])
            expected = load(raw / f"labels{folder}/{name}.nii.gz")
            np.testing.assert_array_equal(to_raw_grid(labels, stored.record.geometry), expected)
            for value, organ in enumerate(("organ", "lesion"), start=1):
                assert stored.record.label_pixels[organ] == tuple((labels == value).sum(axis=(1, 2)).tolist())
    assert [StoredSlices.open(target / "slices", name).record.subset for name in names] == [
        "train",
        "test",
        "unlabelled",
    ]


def test_what_is_written_can_be_read_without_the_raw_folder(root: Path) -> None:
    assert run(root) == 0
    target = root / "preprocessed" / NAME
    shutil.rmtree(root / "raw")
    dataset = read_dataset(target)
    assert (dataset.scheme.names, dataset.ours.origin) == ({"organ": (1,), "lesion": (2,)}, "x")
    assert set(read_json(Fingerprint, target / "dataset_fingerprint.json").cases) == {
        path.stem for path in (target / "slices").glob("*.json")
    }
    assert read_json(Plans, target / "plans.json").channel_names == ("CT", "MR")
    assert len(read_json(Splits, target / "splits.json").folds) == 6


def test_finished_cases_are_kept_and_changed_ones_written_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root) == 0
    target = root / "preprocessed" / NAME
    before, warnings = tree(target), times(target)
    assert run(root) == 0
    assert (tree(target), times(target)) == (before, warnings)
    path = root / "raw" / NAME / "labelsTr/case_02.nii.gz"
    original = load(path)
    save(path, np.where(original == 1, 2, original).astype(np.uint8))
    assert run(root) == 0
    assert "1 cases written, 6 already there and intact" in capsys.readouterr().out
    changed = {name for name, warning in times(target).items() if warnings[name] != warning}
    assert changed == {"case_02.b2nd", "case_02_label.b2nd", "case_02.json"}
    save(path, original)
    assert run(root) == 0
    assert tree(target) == before


def test_a_damaged_case_is_written_again(root: Path) -> None:
    assert run(root) == 0
    target = root / "preprocessed" / NAME
    before = tree(target)
    images = target / "slices/case_01.b2nd"
    content = bytearray(images.read_bytes())
    content[len(content) // 2] ^= 0xFF
    images.write_bytes(content)
    (target / "slices/case_02_label.b2nd").unlink()
    (target / "slices/case_03.json").write_text("{")
    assert run(root) == 0
    assert tree(target) == before


def test_cases_that_are_gone_leave_the_store_and_left_overs_are_swept(root: Path) -> None:
    assert run(root) == 0
    raw, target = root / "raw" / NAME, root / "preprocessed" / NAME
    for path in [*(raw / "imagesTr").glob("case_04*"), *(raw / "labelsTr").glob("case_04*")]:
        path.unlink()
    (target / "slices/.partial-0000-case_01.b2nd").write_bytes(b"half")
    assert run(root) == 0
    names = {path.name for path in (target / "slices").iterdir()}
    assert not {name for name in names if name.startswith((".partial", "case_04"))}
    assert "case_03.b2nd" in names


def test_drawn_selections_outlive_a_new_plan(root: Path) -> None:
    from samora_pipeline.contracts.json_io import write_json
    from samora_pipeline.contracts.splits import select

    assert run(root) == 0
    path = root / "preprocessed" / NAME / "splits.json"
    splits = read_json(Splits, path)
    drawn = select(splits, "5slices", "0", 3, dict.fromkeys(splits.folds["0"].train, 6))
    write_json(splits.with_selection(drawn), path)
    assert run(root, "--set", "input_size=512") == 0
    assert read_json(Splits, path).selections == {"5slices/0/3": drawn}


KILLED = """
import os, signal, sys
import planners.preparation, samora_pipeline.files
from pathlib import Path
from planners.cli import main
count = 0
replace = Path.replace
def replace_or_die(self, target):
    global count
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = replace_or_die
main(["--root", sys.argv[1], "-d", "7", "-np", "1"])
"""


def test_a_run_killed_at_any_write_is_completed_by_the_next(root: Path, tmp_path: Path) -> None:
    """SIGKILL at a rename in the middle; then the tree equals that of an undisturbed run, finished cases untouched."""
    assert run(root) == 0
    target = root / "preprocessed" / NAME
    expected = tree(target)
    for step in (1, 11, 25):
        shutil.rmtree(target)
        process = subprocess.run([sys.executable, "-c", KILLED, str(root), str(step)], capture_output=True, check=False)
        assert process.returncode == -signal.SIGKILL
        assert not (target / "plans.json").exists()
        finished = [path for path in (target / "slices").glob("*.json") if not path.name.startswith(".partial")]
        warnings = {path: path.stat().st_mtime_ns for path in finished}
        assert run(root) == 0
        assert tree(target) == expected
        assert {path: path.stat().st_mtime_ns for path in finished} == warnings


def test_two_runs_at_a_time_are_told_apart(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with exclusive(root / "preprocessed" / NAME):
        assert run(root) == 6
    assert "E-LOCK-01" in capsys.readouterr().err
    assert run(root) == 0


def test_a_full_disk_is_named_and_nothing_is_left_half_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 6000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            code = run(root, "-np", "1")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert code == 6
        assert "E-DISK-01" in capsys.readouterr().err
        target = root / "preprocessed" / NAME
        assert not (target / "plans.json").exists()
        assert not list(target.rglob(".partial*"))
        for record in (target / "slices").glob("*.json"):
            StoredSlices.open(target / "slices", record.stem).verify()
    assert run(root) == 0


def test_a_new_label_declaration_makes_cases_stale(root: Path) -> None:
    assert run(root) == 0
    description = root / "raw" / NAME / "dataset.json"
    plain = json.loads(description.read_text())
    plain["labels"] = {"background": 0, "organ": 1, "tumour": 2}
    description.write_text(json.dumps(plain))
    assert run(root) == 0
    stored = StoredSlices.open(root / "preprocessed" / NAME / "slices", "case_00")
    assert set(stored.record.label_pixels) == {"organ", "tumour"}
