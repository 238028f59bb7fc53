"""What changed is seen by digest, and only that is done again."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planners.fingerprint_extractor
from planners.cases import inspect_case
from planners.cli import main
from planners.preparation import is_current
from tests.raw_data import load, make_raw_dataset, save, tree

NAME = "Dataset007_Boxes"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_raw_dataset(tmp_path / "raw" / NAME, cases=4, test=1)
    assert main(["--root", str(tmp_path)]) == 0
    return tmp_path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that are read and measured, in order."""
    names: list[str] = []
    original = inspect_case

    def watched(source: Any, scheme: Any) -> Any:
        names.append(source.name)
        return original(source, scheme)

    monkeypatch.setattr(planners.fingerprint_extractor, "inspect_case", watched)
    return names


def warnings(root: Path) -> dict[str, int]:
    folder = root / "preprocessed" / NAME / "slices"
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def current(root: Path) -> bool:
    return is_current(root / "raw" / NAME, root / "preprocessed" / NAME)


def test_a_changed_file_is_measured_and_stored_again_and_no_other(
    root: Path, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = warnings(root)
    path = root / "raw" / NAME / "imagesTr/case_02_0000.nii.gz"
    stat = path.stat()
    voxels = load(path)
    voxels[0, 0, 0] += 1
    save(path, voxels)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not current(root)
    assert main(["--root", str(root)]) == 0
    assert measured == ["case_02"]
    out = capsys.readouterr().out
    assert "5 cases (4 train, 1 test, 0 unlabelled): no fault (4 with the same files as before)" in out
    assert "1 cases written, 4 already there and intact" in out
    assert {name for name, warning in warnings(root).items() if before[name] != warning} == {
        "case_02.b2nd",
        "case_02_label.b2nd",
        "case_02.json",
    }
    assert current(root)


def test_a_touched_or_copied_file_is_not_a_changed_one(root: Path, measured: list[str]) -> None:
    for path in (root / "raw" / NAME / "imagesTr").iterdir():
        path.write_bytes(path.read_bytes())
    assert current(root)
    assert main(["--root", str(root), "-d", "7"]) == 0
    assert measured == []


def test_dataset_json_makes_stale_what_depends_on_it(root: Path, measured: list[str]) -> None:
    description = root / "raw" / NAME / "dataset.json"
    plain = json.loads(description.read_text())
    before = warnings(root)
    description.write_text(json.dumps({**plain, "licence": "none"}))
    assert not current(root)
    assert main(["--root", str(root)]) == 0
    assert (measured, warnings(root)) == ([], before)
    description.write_text(json.dumps({**plain, "channel_names": {"0": "MR"}}))
    assert main(["--root", str(root)]) == 0
    assert (measured, warnings(root)) == ([], before)
    plans = json.loads((root / "preprocessed" / NAME / "plans.json").read_text())
    assert plans["intensity"]["value"][0]["scheme"] == "percentiles"
    description.write_text(json.dumps({**plain, "labels": {"background": 0, "organ": 2, "lesion": 1}}))
    assert main(["--root", str(root)]) == 0
    assert len(measured) == 5
    assert all(before[name] != warning for name, warning in warnings(root).items())


def test_a_value_set_for_the_plan_redoes_the_slices_only_where_they_depend_on_it(
    root: Path, measured: list[str]
) -> None:
    before = warnings(root)
    assert main(["--root", str(root), "--set", "input_size=64", "--set", "intensity.0=window:-3,5"]) == 0
    assert (measured, warnings(root)) == ([], before)
    assert current(root)
    assert main(["--root", str(root), "--set", "slice_axis=coronal"]) == 0
    assert measured == []
    assert all(before[name] != warning for name, warning in warnings(root).items())


def edit(root: Path, **values: object) -> None:
    path = root / "preprocessed" / NAME / "plans.json"
    plain = json.loads(path.read_text())
    for name, value in values.items():
        plain[name]["value"] = value
    path.write_text(json.dumps(plain))


def planned(root: Path, name: str) -> object:
    return json.loads((root / "preprocessed" / NAME / "plans.json").read_text())[name]["value"]


def test_a_value_edited_by_hand_is_kept_and_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = warnings(root)
    edit(root, slice_axis="coronal", mirror=False)
    assert not current(root)
    assert main(["--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert "note       edited by hand: slice_axis axial -> coronal" in out
    assert "note       edited by hand: mirror True -> False" in out
    assert all(before[name] != warning for name, warning in warnings(root).items())
    assert current(root)
    assert main(["--root", str(root), "-d", "7", "--explain"]) == 0
    assert "because: edited by hand: slice_axis axial -> coronal" in capsys.readouterr().out
    assert (planned(root, "slice_axis"), planned(root, "mirror")) == ("coronal", False)


def test_an_edit_outlives_other_data_and_yields_to_set(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(root, mirror=False)
    path = root / "raw" / NAME / "imagesTr/case_02_0000.nii.gz"
    save(path, load(path) + 5)
    assert main(["--root", str(root)]) == 0
    assert planned(root, "mirror") is False
    notes = [line for line in capsys.readouterr().out.splitlines() if "edited by hand" in line]
    assert len(notes) == 1
    assert main(["--root", str(root), "--set", "mirror=true"]) == 0
    assert planned(root, "mirror") is True
    assert "mirror was edited by hand; --set takes its place" in capsys.readouterr().out
    edit(root, mirror=False)
    assert main(["--root", str(root)]) == 0
    assert planned(root, "mirror") is False
    edit(root, mirror=True)
    assert main(["--root", str(root)]) == 0
    assert "edited" not in capsys.readouterr().out.partition("nothing to do")[2]
    assert current(root)


def test_a_plan_that_cannot_be_read_is_written_anew_and_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "preprocessed" / NAME / "plans.json"
    intact = path.read_bytes()
    path.write_text("{")
    assert main(["--root", str(root)]) == 0
    assert "plans.json could not be read" in capsys.readouterr().out
    assert path.read_bytes() == intact


def test_a_repaired_case_is_all_that_is_measured_after_a_fault(root: Path, measured: list[str]) -> None:
    path = root / "raw" / NAME / "labelsTr/case_01.nii.gz"
    intact = path.read_bytes()
    before = tree(root / "preprocessed" / NAME)
    path.write_bytes(intact[:-2])
    assert main(["--root", str(root)]) == 4
    path.write_bytes(intact)
    assert main(["--root", str(root)]) == 0
    assert measured == ["case_01"]
    assert tree(root / "preprocessed" / NAME) == before


def test_a_damaged_measurement_is_made_again(root: Path, measured: list[str]) -> None:
    target = root / "preprocessed" / NAME
    before = tree(target)
    first, second, third = sorted((target / ".fingerprints").iterdir())[:3]
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 4
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:-30])
    np.savez(third, record=np.frombuffer(b"{}", np.uint8))
    assert main(["--root", str(root), "-d", "7"]) == 0
    assert measured == ["case_00", "case_01", "case_02"]
    assert tree(target) == before


def test_a_file_that_changes_between_check_and_store_is_noticed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import planners.preparation

    path = root / "raw" / NAME / "imagesTr/case_02_0000.nii.gz"
    (root / "preprocessed" / NAME / "slices/case_02.json").unlink()
    original = planners.preparation.store_case

    def after_a_change(task: Any) -> Any:
        if task.source.name == "case_02":
            save(path, load(path) + 1)
        return original(task)

    monkeypatch.setattr(planners.preparation, "store_case", after_a_change)
    assert main(["--root", str(root)]) == 4
    assert "E-CASE-04" in capsys.readouterr().err
    assert not (root / "preprocessed" / NAME / "slices/case_02.json").exists()
    monkeypatch.undo()
    assert main(["--root", str(root)]) == 0
