"""A run on degraded balls: clean and degraded scores side by side, nothing left behind, nothing done twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.studies.robustness import main
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.scores import Summary
from tests.trainers.forked_commands import Child, launch
from tests.trainers.runs import session, short
from tests.trainers.small_data import NAME, make_dataset

RUN = "SAMedTrainer__2cases__plain"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_dataset(tmp_path_factory.mktemp("robust"))
    words = ["90", "SAMedTrainer", "2cases", "--root", str(root), "--backbone", "samora_tiny", "--name", "plain"]
    assert session([*words, *short("finetune")]) == 0
    return root


def test_degraded_scans_are_scored_beside_the_clean_ones(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--root", str(root), f"{NAME}/{RUN}", "--kinds", "noise", "downsampling", "--levels", "5"]
    assert main(words, launch) == 0
    folder = root / "study" / "robustness"
    table = pd.read_csv(folder / "robustness.csv")
    assert list(table["kind"]) == ["noise", "downsampling"]
    clean = read_json(Summary, root / "results" / NAME / RUN / "fold_0" / "summary.json")
    assert table["clean"].tolist() == pytest.approx([clean.foreground_mean.Dice] * 2, abs=6e-4)
    for kind, shown in zip(table["kind"], table["level 5"], strict=True):
        scored = read_json(Summary, folder / f"{kind}_5" / RUN / "summary.json")
        assert shown == pytest.approx(scored.foreground_mean.Dice, abs=6e-4)
        assert scored.n == clean.n
        assert scored.foreground_mean.n_pred != clean.foreground_mean.n_pred
        assert not (folder / f"{kind}_5" / "images").exists()
    assert (folder / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert "PHANTOM" in (folder / "robustness.md").read_text()
    capsys.readouterr()
    assert main(words, _refuse) == 0


def test_runs_of_several_folds_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = root / "results" / NAME / RUN.replace("plain", "other") / "fold_1"
    fold = root / "results" / NAME / RUN / "fold_0"
    other.mkdir(parents=True)
    for name in ("config.json", "summary.json"):
        (other / name).write_text((fold / name).read_text().replace('"fold": "0"', '"fold": "1"'))
    assert main(["--root", str(root), str(fold.parent), str(other.parent)], _refuse) == 4
    assert "E-STUDY-13" in capsys.readouterr().err


def _refuse(words: Sequence[str], log: Path, lock: int, environment: Mapping[str, str]) -> Child:
    raise AssertionError(f"nothing may be started: {words[0]}")
