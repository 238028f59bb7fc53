"""Runs found by path or name, folds summed up, labels that tell runs apart, and every way a run is not one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import pytest

from samora_pipeline.contracts.run import PoolRecord, StageRecord, TeacherRecord
from samora_pipeline.contracts.timing import Timing
from samora_pipeline.errors import AssetError, DataError, UsageError
from samora_pipeline.evaluation.run_scores import distinct_labels, read_run
from tests.fake_run import random_dice, write_scored_run

DICE = random_dice(1, cases=4)


def test_a_run_is_found_by_path_and_below_results(tmp_path: Path) -> None:
    run = write_scored_run(tmp_path, DICE, timing=Timing(device="cpu", seconds_per_volume=2.0), warnings=("PHANTOM",))
    by_path, by_name = read_run(str(run), Path("nowhere")), read_run(f"Dataset001_Synapse/{run.name}", tmp_path)
    assert by_path == by_name
    assert (by_path.label, by_path.folds, by_path.warnings) == (run.name, ("official",), ("PHANTOM",))
    assert by_path.timings[0].seconds_per_volume == 2
    assert [row.case for row in by_path.summary.metric_per_case] == list(DICE)
    assert read_run(str(run / "fold_official"), tmp_path).label == f"{run.name}/fold_official"
    part = run.name.partition("__")[2]
    assert read_run(part, tmp_path).folder == by_path.folder
    assert read_run(f"{part}/fold_official", tmp_path).label == f"{run.name}/fold_official"


def test_numbered_folds_are_summed_up(tmp_path: Path) -> None:
    cases = list(DICE.items())
    write_scored_run(tmp_path, dict(cases[:2]), fold="0")
    run = write_scored_run(tmp_path, dict(cases[2:]), fold="1")
    found = read_run(str(run), tmp_path)
    assert (found.folds, found.summary.n) == (("0", "1"), 4)
    assert read_run(str(run / "fold_1"), tmp_path).summary.n == 2
    (run / "fold_0" / "summary.json").unlink()
    with pytest.raises(DataError, match=r"(?s)E-EVAL-05.*fold_0"):
        read_run(str(run), tmp_path)


def test_folds_of_two_kinds_must_be_named(tmp_path: Path) -> None:
    write_scored_run(tmp_path, DICE, fold="0")
    run = write_scored_run(tmp_path, DICE, fold="official")
    with pytest.raises(UsageError, match=r"(?s)E-CMP-02.*fold_0, fold_official.*/fold_official"):
        read_run(str(run), tmp_path)


def test_what_is_no_scored_run_is_said_to_be_none(tmp_path: Path) -> None:
    run = write_scored_run(tmp_path, DICE)
    (run / "fold_official" / "summary.json").unlink()
    with pytest.raises(AssetError, match=r"(?s)E-CMP-01.*is not scored.*--stage validate"):
        read_run(str(run), tmp_path)
    (run / "fold_official" / "config.json").unlink()
    with pytest.raises(AssetError, match=r"(?s)E-CMP-01.*no fold_K"):
        read_run(str(run), tmp_path)
    with pytest.raises(AssetError, match=r"(?s)E-CMP-01.*no run elsewhere"):
        read_run("elsewhere", tmp_path)


def test_a_moved_run_is_the_same_run(tmp_path: Path) -> None:
    run = write_scored_run(tmp_path / "here", DICE)
    before = read_run(str(run), tmp_path)
    moved = shutil.move(run, tmp_path / "elsewhere")
    after = read_run(str(moved), tmp_path)
    assert (after.summary, after.configs, after.identity) == (before.summary, before.configs, before.identity)


def test_seeds_share_an_identity_and_other_settings_do_not(tmp_path: Path) -> None:
    def run(name: str, seed: int, recipe: str = "full") -> Path:
        learned = StageRecord("expert_image", "Image", f"digest of {name}", {})
        return write_scored_run(tmp_path, DICE, name=name, seed=seed, recipe=recipe, stages=(learned,))

    runs = [run("a", 0), run("b", 1), run("c", 0, recipe="none")]
    first, second, third = (read_run(str(folder), tmp_path).identity for folder in runs)
    assert first == second != third


def test_what_a_seed_draws_or_starts_from_is_no_part_of_an_identity(tmp_path: Path) -> None:
    def identity(name: str, case: str = "a", origin: Literal["public", "random"] = "random") -> str:
        run = write_scored_run(
            tmp_path,
            DICE,
            name=name,
            pool=PoolRecord({"Dataset001_Synapse": (case,)}, (), key=name),
            teachers={"image": TeacherRecord("simclr_tiny", f"digest of {name}", origin, identity=name)},
        )
        return read_run(str(run), tmp_path).identity

    assert identity("1") == identity("2")
    assert identity("1") != identity("3", case="b")
    assert identity("4", origin="public") != identity("5", origin="public")


def test_labels_tell_runs_apart(tmp_path: Path) -> None:
    runs = [
        write_scored_run(tmp_path / "x", DICE),
        write_scored_run(tmp_path / "y", DICE),
        write_scored_run(tmp_path / "y", DICE, trainer="SAMedTrainer"),
    ]
    read = [read_run(str(run), tmp_path) for run in (*runs, runs[0])]
    name = "SAMoraTrainer__10pct__default"
    first, second, third, again = (run.label for run in distinct_labels(read))
    assert (first, second) == (f"x/Dataset001_Synapse/{name}", f"y/Dataset001_Synapse/{name}")
    assert third == "SAMedTrainer__10pct__default"
    assert again != first
    assert again.endswith("(2)")
