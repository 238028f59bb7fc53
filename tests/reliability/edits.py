"""Values in JSON files changed while the file stays valid, and what the next command makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.reliability.base import FOLD, PREPROCESSED, Workplace, differences, results
from tests.reliability.random_faults import STAGES, Trial


@dataclass(frozen=True)
class Edit:
    """A change of one file, and the stage that reads it; ``said``: what is honoured and told by name."""

    stage: str
    file: str
    change: Callable[[Any], None]
    said: str = ""


def put(*place_and_value: Any) -> Callable[[Any], None]:
    """An edit that sets the value at a place; a function gets the old value."""
    *place, last, value = place_and_value

    def change(whole: Any) -> None:
        for key in place:
            whole = whole[key]
        whole[last] = value(whole[last]) if callable(value) else value

    return change


def _all_dice(summary: Any) -> None:
    for case in summary["metric_per_case"]:
        for scores in case["metrics"].values():
            scores["Dice"] = 0.99


_RECORD, _PLANS, _CONFIG = f"{PREPROCESSED}/slices/case_*.json", f"{PREPROCESSED}/plans.json", f"{FOLD}/config.json"
_WINDOW = [{"scheme": "window", "low": 0.0, "high": 100.0}]

EDITS = {
    "statistics of a stored case": Edit("train", _RECORD, put("intensities", 0, "mean", 7.5)),
    "percentile of a stored case": Edit("train", _RECORD, put("intensities", 0, "percentile_99_5", 1.0)),
    "pixels of the labels of a stored case": Edit(
        "train", _RECORD, put("label_pixels", "ball", lambda v: [9] * len(v))
    ),
    "name of a stored case": Edit("train", _RECORD, put("case", "case_9")),
    "subset of a stored case": Edit("train", _RECORD, put("subset", "test")),
    "source of a stored case": Edit("train", _RECORD, put("source_digest", "0" * 64)),
    "planned axis": Edit("train", _PLANS, put("slice_axis", "value", "coronal")),
    "planned window": Edit("train", _PLANS, put("intensity", "value", _WINDOW), said="edited"),
    "planned mirroring": Edit("train", _PLANS, put("mirror", "value", lambda v: not v), said="edited"),
    "measurements of the plan": Edit("train", _PLANS, put("fingerprint_digest", "0" * 64)),
    "axis of a run": Edit("predict", _CONFIG, put("plans", "slice_axis", "value", "coronal")),
    "window of a run": Edit("predict", _CONFIG, put("plans", "intensity", "value", _WINDOW)),
    "slice size of a run": Edit("predict", _CONFIG, put("plans", "slice_size", "value", 96)),
    "labels of a run": Edit("predict", _CONFIG, put("labels", "names", {"ball": [2], "hole": [1]})),
    "label value of a run": Edit("predict", _CONFIG, put("labels", "names", {"ball": [7], "hole": [2]})),
    "order of the fusion": Edit("predict", _CONFIG, put("model", "fusion", "options", "order", "1-1-2")),
    "residual of the fusion": Edit("predict", _CONFIG, put("model", "fusion", "options", "residual", "paper")),
    "scope of the fusion": Edit("predict", _CONFIG, put("model", "fusion", "scope", "attention")),
    "size of the input": Edit("predict", _CONFIG, put("model", "input_size", 96)),
}


def trial(place: Workplace, name: str) -> Trial:
    """Make an edit, run the command, judge."""
    edit = EDITS[name]
    command, _ = STAGES[edit.stage]
    expected, usual = place.reference(f"stage {edit.stage}", command)
    folder = place.setup(command.parts)
    path = _used(folder, edit.file)
    whole = json.loads(path.read_text())
    edit.change(whole)
    path.write_text(json.dumps(whole, indent=2) + "\n")
    outcome = place.run(command.words(folder))
    differing = tuple(differences(expected, results(folder, command.compared)))
    return Trial(0, edit.stage, path.relative_to(folder).as_posix(), "json_value", name, outcome, usual, differing)


def _used(folder: Path, file: str) -> Path:
    """The file, or of the stored cases one that is learned from."""
    if "*" not in file:
        return folder / file
    splits = json.loads((folder / PREPROCESSED / "splits.json").read_text())
    selection = next(iter(splits["selections"].values()))
    return folder / file.replace("case_*", selection["cases"][0])
