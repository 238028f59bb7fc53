"""samora_external: exactly the labels of a split go in, label maps are scored, and samora_compare takes the run."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.contracts.timing import Timing
from samora_pipeline.errors import UsageError
from samora_pipeline.external.cli import main
from samora_pipeline.external.runner import CommandRunner, Workplace
from samora_pipeline.reporting.compare_cli import main as compare
from tests.trainers.small_data import NAME, SCORED, TRAIN, make_dataset

_LOG = 'echo "$(basename "$0") $@" >> "$nnUNet_raw/../asked.txt"\n'
# What nnU-Net writes; training is killed once, with a checkpoint to go on from.
_PROGRAMS = {
    "nnUNetv2_plan_and_preprocess": f"""{_LOG}
mkdir -p "$nnUNet_preprocessed/{NAME}/nnUNetPlans_2d"
cp "$nnUNet_raw/{NAME}/splits_final.json" "$nnUNet_preprocessed/{NAME}/"
echo '{{}}' > "$nnUNet_preprocessed/{NAME}/nnUNetPlans.json"
""",
    "nnUNetv2_train": f"""{_LOG}
folder="$nnUNet_results/{NAME}/nnUNetTrainer_1epoch__nnUNetPlans__2d/fold_0"
mkdir -p "$folder"
if [ -f "$folder/checkpoint_latest.pth" ]; then touch "$folder/checkpoint_final.pth"
else touch "$folder/checkpoint_latest.pth"; echo "no memory left"; exit 137; fi
""",
    "nnUNetv2_predict": f"""{_LOG}
while [ $# -gt 0 ]; do case "$1" in -i) images="$2";; -o) out="$2";; esac; shift; done
for image in "$images"/*; do
  name=$(basename "$image" _0000.nii.gz)
  cp "$TRUTH/$name.nii.gz" "$out"
done
""",
}
# A program of three lines: every voxel gets the label of the first labelled case's most frequent one but background.
_STAND_IN = """
import sys, nibabel, numpy
from pathlib import Path
train, images, out = map(Path, sys.argv[1:4])
first = sorted((train / "labelsTr").iterdir())[0]
values = numpy.asarray(nibabel.load(first).dataobj)
most = numpy.bincount(values[(values > 0) & (values < 3)].astype(int)).argmax()
for image in sorted(images.iterdir()):
    scan = nibabel.load(image)
    labels = numpy.where(numpy.asarray(scan.dataobj) > 0, most, 0).astype("uint8")
    nibabel.save(nibabel.Nifti1Image(labels, scan.affine), out / image.name.replace("_0000", ""))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "root")


@pytest.fixture
def programs(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in _PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("TRUTH", str(root / "raw" / NAME / "labelsTr"))
    return folder


def test_nnunet_goes_on_after_a_kill_and_is_scored(
    root: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["nnunet", "Balls", "2cases", "--programs", str(programs), "--trainer", "nnUNetTrainer_1epoch"]
    words += ["--device", "cpu", "--root", str(root)]
    assert main(words) == 4
    said = capsys.readouterr().err
    assert "E-EXT-03" in said
    assert "no memory left" in said
    assert main(words) == 0
    fold = root / "results" / NAME / "nnunet__2cases__default" / "fold_0"
    asked = [shlex.split(line) for line in (fold / "external" / "asked.txt").read_text().splitlines()]
    assert [line[0] for line in asked] == [
        *("nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_train", "nnUNetv2_predict")
    ]
    assert ["--c" in line for line in asked[1:3]] == [False, True]
    assert asked[3][asked[3].index("-f") + 1] == "0"
    raw = fold / "external" / "raw" / NAME
    config = read_json(RunConfig, fold / "config.json")
    images = {image.name.removesuffix("_0000.nii.gz") for image in (raw / "imagesTr").iterdir()}
    assert images == set(config.selection.cases)
    assert len(images) == 2
    assert not images & set(SCORED)
    (only,) = json.loads((fold / "external" / "preprocessed" / NAME / "splits_final.json").read_text())
    assert set(only["train"]) == images
    assert only["val"] == [config.selection.cases[0]]
    assert json.loads((fold / "summary.json").read_text())["foreground_mean"]["Dice"] == 1.0
    assert config.stages[0].settings == {
        **{"configuration": "2d", "preset": "default", "trainer": "nnUNetTrainer_1epoch", "nnunetv2": "unknown"}
    }
    timing = read_json(Timing, fold / "timing.json")
    assert timing.device == "cpu"
    assert timing.seconds_per_volume is not None
    assert 0 < timing.seconds_per_volume < timing.stages["external"].seconds
    assert main(words) == 0
    assert len((fold / "external" / "asked.txt").read_text().splitlines()) == 4
    capsys.readouterr()
    assert compare([str(fold.parent), "--table", "14", "--root", str(root)]) == 0
    assert "| nnUnet" in capsys.readouterr().out


def stand_in(folder: Path) -> list[str]:
    program = folder / "program.py"
    program.write_text(_STAND_IN)
    return ["--command", f"{sys.executable} {program} {{train}} {{images}} {{predictions}}"]


def test_any_program_by_its_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["command", "Balls", "3cases", "--method", "Three-Lines", "--root", str(root), *stand_in(tmp_path)]
    assert main(words) == 0
    fold = root / "results" / NAME / "Three-Lines__3cases__default" / "fold_0"
    summary = json.loads((fold / "summary.json").read_text())
    assert 0 < summary["foreground_mean"]["Dice"] < 1
    assert {row["case"] for row in summary["metric_per_case"]} == set(SCORED)
    assert sorted(path.name for path in (fold / "validation").iterdir()) == [f"{case}.nii.gz" for case in SCORED]
    capsys.readouterr()
    other = [*words[:4], "Other", *words[5:]]
    assert main(other) == 0
    capsys.readouterr()
    assert compare(["Three-Lines__3cases__default", "Other__3cases__default", "--root", str(root)]) == 0
    assert "Other__3cases__default" in capsys.readouterr().out


def test_labels_of_slices_come_with_an_ignore_mask(root: Path, tmp_path: Path) -> None:
    words = ["command", "Balls", "4slices", "--method", "Sliced", "--root", str(root), *stand_in(tmp_path)]
    assert main(words) == 0
    fold = root / "results" / NAME / "Sliced__4slices__default" / "fold_0"
    selection = read_json(RunConfig, fold / "config.json").selection
    given = fold / "external" / "raw" / NAME
    assert read_dataset(given).scheme.ignore == 3
    assert sum(map(len, selection.slices.values())) == 4
    for case, indices in selection.slices.items():
        masked, whole = (
            np.asarray(nibabel.load(folder / "labelsTr" / f"{case}.nii.gz").dataobj)
            for folder in (given, root / "raw" / NAME)
        )
        for plane in range(whole.shape[2]):
            expected = whole[..., plane] if plane in indices else np.full_like(whole[..., plane], 3)
            assert np.array_equal(masked[..., plane], expected)


def test_missing_label_maps_and_another_run_are_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["command", "Balls", "2cases", "--method", "Empty", "--root", str(root)]
    assert main([*words, "--command", "true {predictions}"]) == 3
    assert "E-EXT-04" in capsys.readouterr().err
    assert main([*words, *stand_in(tmp_path)]) == 4
    assert "E-EXT-05" in capsys.readouterr().err
    assert main([*words, "--name", "gone", "--command", "/no/such/program {predictions}"]) == 4
    assert "E-EXT-03" in capsys.readouterr().err


def test_a_labelled_case_of_a_scored_patient_stops_it(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = root / "raw" / NAME
    described = json.loads((raw / "samora.json").read_text())
    (raw / "samora.json").write_text(json.dumps(described | {"patients": {"case_0": "one", SCORED[0]: "one"}}))
    words = ["command", "Balls", "full", "--method", "A", "--root", str(root), *stand_in(tmp_path)]
    assert main(words) == 4
    assert "E-EXT-08" in capsys.readouterr().err
    assert not (root / "results").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nnunet", "Balls", "2cases"], "E-EXT-02"),
        (["command", "Balls", "2cases", "--method", "A"], "E-EXT-01"),
        (["command", "Balls", "2cases", "--method", "A", "--command", "run {train}"], "E-EXT-01"),
        (["command", "Balls", "2cases", "--method", "A", "--command", "run {predictions} {gpu}"], "E-EXT-01"),
        (["command", "Balls", "2cases", "--method", "A/B", "--command", "run {predictions}"], "E-EXT-07"),
        (["command", "Balls", "2cases", "--method", "A", "--name", "../x", "--command", "x {predictions}"], "E-EXT-07"),
        (["command", "Balls", "2casse", "--method", "A", "--command", "run {predictions}"], "E-SPLIT-04"),
        (["command", "Bulls", "2cases", "--method", "A", "--command", "run {predictions}"], "E-NAME-02"),
    ],
)
def test_what_cannot_run_is_refused(
    root: Path, words: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--root", str(root)]) in (2, 4, 5)
    assert code in capsys.readouterr().err
    assert not (root / "results").exists()


def test_paths_with_spaces_stay_whole() -> None:
    place = Workplace(Path("/a b"), NAME, TRAIN[:1], ".nii.gz", 3)
    runner = CommandRunner("A", ("run --seed {seed} '{work}/x y' {predictions}",))
    assert list(runner.commands(place)) == [["run", "--seed", "3", "/a b/work/x y", "/a b/predictions"]]


def test_every_preset_names_its_plans(tmp_path: Path, programs: Path) -> None:
    from samora_pipeline.external.nnunet import NnunetRunner

    place = Workplace(tmp_path, NAME, TRAIN[:2], ".nii.gz", 0)
    found: dict[str, list[Any]] = {}
    for preset in ("default", "resenc_m", "resenc_l", "resenc_xl"):
        commands = list(NnunetRunner(programs, preset=preset, device="cpu").commands(place))
        found[preset] = [commands[0][commands[0].index("-pl") + 1], commands[2][commands[2].index("-p") + 1]]
    assert found["default"] == ["ExperimentPlanner", "nnUNetPlans"]
    assert found["resenc_l"] == ["nnUNetPlannerResEncL", "nnUNetResEncUNetLPlans"]
    with pytest.raises(UsageError, match="E-EXT-01"):
        CommandRunner("A", ())
