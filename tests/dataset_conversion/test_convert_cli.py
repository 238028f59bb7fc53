"""The command: where a dataset goes, what is said, exit codes, and that nothing is left half done."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataset_conversion.catalogue import CONVERTERS
from dataset_conversion.cli import main
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.files import exclusive
from tests.dataset_conversion.sources import make_decathlon, make_folder, make_nnunet


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def _convert(root: Path, *arguments: object) -> int:
    return main([*map(str, arguments), "--root", str(root)])


def _present(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "raw").iterdir()) if (root / "raw").is_dir() else []


def test_a_task_gets_its_home_id_from_the_downloads_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_decathlon(root / "downloads")
    assert _convert(root, "-d", "Task04_Tiny") == 0
    assert _present(root) == ["Dataset014_Tiny"]
    said = capsys.readouterr().out
    assert f"root {root} (--root)" in said
    assert "Dataset014_Tiny  id 14" in said
    assert "3 training, 1 test, 0 unlabelled cases" in said
    assert said.rstrip().endswith("next: samora_plan_and_preprocess -d 14")


def test_dry_run_says_all_and_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_decathlon(root / "in")
    assert _convert(root, "-d", "Task04_Tiny", "-i", source, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "Dataset014_Tiny  would be written to" in said
    assert "3 training, 1 test" in said
    assert "labels 0 background, 1 Front, 2 Back" in said
    assert _present(root) == []


def test_an_existing_dataset_is_only_replaced_on_demand(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_decathlon(root / "in")
    assert _convert(root, "-d", "Task04_Tiny", "-i", source) == 0
    marker = root / "raw" / "Dataset014_Tiny" / "mine.txt"
    marker.touch()
    assert _convert(root, "-d", "Task04_Tiny", "-i", source) == 4
    assert "E-OUT-03" in capsys.readouterr().err
    assert marker.exists()
    assert _convert(root, "-d", "Task04_Tiny", "-i", source, "--overwrite") == 0
    assert not marker.exists()
    assert _present(root) == ["Dataset014_Tiny"]


def test_taken_homes_and_wrong_ids(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "raw" / "Dataset014_Other").mkdir(parents=True)
    source = make_decathlon(root / "in")
    assert _convert(root, "-d", "Task04_Tiny", "-i", source, "--id", 14) == 2
    assert "Dataset014_Other" in capsys.readouterr().err
    assert _convert(root, "-d", "Task04_Tiny", "-i", source) == 0
    assert _present(root) == ["Dataset014_Other", "Dataset100_Tiny"]
    mine = make_folder(root / "mine")
    assert _convert(root, "-d", "Folder", "-i", mine, "--name", "Mine") == 0
    assert _convert(root, "-d", "Folder", "-i", mine, "--name", "Mine2", "--id", 7) == 0
    assert _present(root)[:1] == ["Dataset007_Mine2"]
    assert "Dataset101_Mine" in _present(root)


def test_nnunet_keeps_its_id_and_its_source(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_nnunet(root / "in")
    assert _convert(root, "-d", "nnUNet", "-i", source) == 0
    assert _present(root) == ["Dataset042_Small"]
    placed = root / "raw" / "Dataset042_Small"
    assert _convert(root, "-d", "nnUNet", "-i", placed, "--overwrite") == 2
    assert "E-SRC-05" in capsys.readouterr().err
    assert read_dataset(placed).training()
    assert _convert(root, "-d", "nnUNet", "-i", source, "--overwrite") == 0


def test_phantoms_need_no_source(root: Path) -> None:
    assert _convert(root, "-d", "Phantom", "--scans", 2, 1, 0, "--seed", 5) == 0
    raw = read_dataset(root / "raw" / "Dataset090_Phantom")
    assert raw.ours.phantom
    assert raw.ours.budget_unit == "slices"
    assert raw.ours.window == (-125.0, 275.0)
    assert raw.ours.published_split is not None
    assert raw.ours.published_split.train == ("phantom_000", "phantom_001")
    assert raw.ours.published_split.test == ("phantom_002",)
    assert raw.test()["phantom_002"].label is not None
    assert list(raw.description.labels) == [
        "background",
        "spleen",
        "right_kidney",
        "left_kidney",
        "gallbladder",
        "liver",
        "stomach",
        "aorta",
        "pancreas",
    ]
    assert _convert(root, "-d", "Phantom", "--scans", 0, "--overwrite") == 2


def test_list_names_every_converter_with_terms_and_tree(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _convert(root, "-d", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CONVERTERS.names()) + 1
    assert all(line.startswith(name) for name, line in zip(CONVERTERS.names(), lines, strict=False))
    assert _convert(root, "-d", "list", *CONVERTERS.names()) == 0
    said = capsys.readouterr().out
    for text in ("Decathlon", "medicaldecathlon.com", "CC BY-SA 4.0", "imagesTr/CASE.nii.gz", "home id 90", "Folder"):
        assert text in said


def test_folders_of_ones_own_in_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_folder(root / "in")
    words = (source / "images", source / "labels", "--name", "Liver", "--label-names", "liver", "tumour")
    assert main([*map(str, words), "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert "2 training, 0 test, 1 unlabelled cases" in said
    raw = read_dataset(root / "raw" / "Dataset100_Liver")
    assert raw.description.labels == {"background": 0, "liver": 1, "tumour": 2}
    both = root / "both"
    both.mkdir()
    for part, suffix in (("images", ""), ("labels", "-seg")):
        for path in (source / part).iterdir():
            shutil.copy(path, both / path.name.replace(".nii.gz", f"{suffix}.nii.gz"))
    assert main([str(both), "--name", "Both", "--root", str(root)]) == 0
    assert sorted(read_dataset(root / "raw" / "Dataset101_Both").training()) == ["scan0", "scan1"]
    assert "label maps end with -seg" in capsys.readouterr().out


def test_nothing_to_convert_is_a_usage_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _convert(root) == 2
    assert capsys.readouterr().err.startswith("E-ARG-19")
    assert _convert(root, "somewhere", "-d", "LA") == 2
    assert capsys.readouterr().err.startswith("E-ARG-19")
    assert _convert(root, "-d", "MyData") == 2
    assert "samora_convert IMAGES LABELS --name MyData" in capsys.readouterr().err


def test_missing_description_is_4_with_nothing_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_decathlon(root / "in")
    (source / "dataset.json").unlink()
    assert _convert(root, "-d", "Task04_Tiny", "-i", source) == 4
    said = capsys.readouterr().err
    assert said.startswith("E-SRC-01")
    assert "dataset.json" in said
    assert "medicaldecathlon" in said
    assert not (root / "raw").exists()
    assert _convert(root, "-d", "Task04_Tiny", "-i", root / "nowhere") == 4


def test_unknown_converter_is_2_with_the_nearest_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _convert(root, "-d", "Phantm", "--seed", 3) == 2
    assert "did you mean Phantom, " in capsys.readouterr().err


def test_options_of_another_converter_are_refused(root: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        _convert(root, "-d", "Phantom", "--label-map", "x.json")
    assert caught.value.code == 2


def test_truncated_scan_is_skipped_with_3(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_decathlon(root / "in")
    path = source / "imagesTr" / "tiny_001.nii.gz"
    path.write_bytes(path.read_bytes()[:-8])
    assert _convert(root, "-d", "Task04_Tiny", "-i", source) == 3
    assert "tiny_001: E-IMG-02" in capsys.readouterr().out
    report = json.loads((root / "raw" / "Dataset014_Tiny" / "conversion.json").read_text())
    assert [fault["case"] for fault in report["skipped"]] == ["tiny_001"]


def test_no_usable_case_is_4_with_nothing_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_decathlon(root / "in", training=1, test=0)
    (source / "imagesTr" / "tiny_000.nii.gz").write_bytes(b"")
    assert _convert(root, "-d", "Task04_Tiny", "-i", source) == 4
    assert "E-CONV-02" in capsys.readouterr().err
    assert _present(root) == []


def test_a_kill_leaves_nothing_under_the_final_name_and_the_next_run_cleans_up(root: Path) -> None:
    command = [sys.executable, "-c", "from dataset_conversion.cli import main; main()"]
    process = subprocess.Popen([*command, "-d", "Phantom", "--scans", "40", "--root", str(root)])
    deadline = time.monotonic() + 60
    while not list(root.glob("raw/.partial-*/imagesTr/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = _present(root)
    assert len(left) == 1
    assert left[0].startswith(".partial-")
    assert _convert(root, "-d", "Phantom", "--scans", 1, 0, 0) == 0
    assert _present(root) == ["Dataset090_Phantom"]


def test_two_conversions_to_one_target_do_not_disturb_each_other(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_decathlon(root / "in")
    running = root / "raw" / ".partial-0000-Dataset014_Tiny"
    with exclusive(running):
        assert _convert(root, "-d", "Task04_Tiny", "-i", source) == 6
        assert "E-LOCK-01" in capsys.readouterr().err
        assert running.is_dir()
    assert _convert(root, "-d", "Task04_Tiny", "-i", source) == 0
    assert _present(root) == ["Dataset014_Tiny"]
    assert not (root / "raw" / "Dataset014_Tiny" / ".lock").exists()


def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    for workers in (1, 2):
        assert _convert(tmp_path / str(workers), "-d", "Phantom", "--scans", 1, 1, 1, "-np", workers) == 0
    trees = [tmp_path / workers / "raw" / "Dataset090_Phantom" for workers in ("1", "2")]
    files = [{str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*.nii.gz")} for tree in trees]
    assert len(files[0]) == 5
    assert files[0] == files[1]


def test_no_process_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _convert(root, "-d", "Phantom", "-np", 0) == 2
    assert "E-ARG-01" in capsys.readouterr().err
