"""A planned dataset with two labelled scans and four without labels, and a round of nine slices of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from planners.cli import main as plan
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.labelling import suggest_cli
from tests.fake_run import make_plans, write_fake_run
from tests.raw_data import make_raw_dataset

NAME = "Dataset101_Few"
LABELS = LabelScheme({"organ": (1,), "lesion": (2,)})


@pytest.fixture(scope="session")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root; nothing in it may be changed."""
    root = tmp_path_factory.mktemp("labelling")
    make_raw_dataset(root / "raw" / NAME, cases=2, unlabelled=4, shape=(24, 20, 12))
    assert plan(["-d", "101", "--root", str(root), "-np", "1"]) == 0
    write_fake_run(
        root / "results", dataset=NAME, run="UNetTrainer__full__first", plans=make_plans(dataset=NAME), labels=LABELS
    )
    assert suggest_cli.main(["101", "--root", str(root), "--slices", "9", "-o", str(root / "cold")]) == 0
    return root


@pytest.fixture
def root(planned: Path, tmp_path: Path) -> Path:
    """A copy of the data root."""
    return shutil.copytree(planned, tmp_path / "root")
