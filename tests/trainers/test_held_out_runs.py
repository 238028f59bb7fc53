"""A run that holds out a training case chooses its post-processing on it, and on nothing that is scored."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

from samora_pipeline.contracts.json_io import read_json, sealed
from samora_pipeline.contracts.postprocessing import PostProcessing
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.inference.postprocessing import choose
from samora_pipeline.inference.record import PredictionRecord
from tests.trainers.runs import command, fold_folder, session
from tests.trainers.small_data import NAME, SCORED, make_dataset


def test_a_held_out_case_is_not_learned_from_and_decides_alone(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    words = ("--name", "held", "--set", "finetune.held_out=1")
    assert session(command(root, *words, trainer="SAMedTrainer")) == 0
    folder = fold_folder(root, "SAMedTrainer__2cases__held")
    config = read_json(RunConfig, folder / "config.json")
    (held_out,) = config.held_out
    assert len(config.selection.cases) == 1
    assert held_out not in (*config.selection.cases, *SCORED)
    # The divided selection belongs to this run alone.
    stored = json.loads((root / "preprocessed" / NAME / "splits.json").read_text())["selections"]
    assert "2cases/0/0" not in stored
    assert [path.name for path in (folder / "tuning").glob("*.nii.gz")] == [f"{held_out}.nii.gz"]
    truth, guess = (
        np.asarray(nibabel.load(path).dataobj).astype(np.uint8)
        for path in (
            root / "raw" / NAME / "labelsTr" / f"{held_out}.nii.gz",
            folder / "tuning" / f"{held_out}.nii.gz",
        )
    )
    chosen = read_json(PostProcessing, folder / "postprocessing.json")
    assert chosen == sealed(choose([(held_out, truth, guess)], config.labels))
    assert chosen.steps
    record = read_json(PredictionRecord, folder / "validation" / "run.json")
    assert record.model.largest_component == tuple(step.name for step in chosen.kept)
    assert set(record.cases) == set(SCORED)
