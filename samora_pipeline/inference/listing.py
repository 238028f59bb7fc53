"""What can predict: the trained runs as a table, one line each."""

from __future__ import annotations

import time
from pathlib import Path

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import CONFIG_FILE, SUMMARY_FILE
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.contracts.scores import EXPORTED_SCORES_FILE, ExportedScores, Summary
from samora_pipeline.errors import DataError
from samora_pipeline.inference.runs import TrainedRun

_HEADER = ("run", "backbone", "folds", "finished", "Dice", "stamps")
_NONE = "-"


def list_runs(runs: list[TrainedRun], *, allow_code: bool = False) -> list[str]:
    """The lines of a table with each run's name as ``-m`` takes it, its finished folds, and its mean Dice.

    Dice is the foreground mean of protocol ``physical`` over the scored cases, averaged over the folds that are scored;
    that of an imported model is what it was exported with. A run that cannot be read is listed with the reason.
    """
    rows = [_HEADER, *(_row(run, allow_code) for run in runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(run: TrainedRun, allow_code: bool) -> tuple[str, ...]:
    try:
        configs = [read_run_config(fold / CONFIG_FILE, allow_code=allow_code) for fold in run.folds.values()]
        dice = _dice(run)
    except DataError as error:
        return (
            run.label,
            _NONE,
            ", ".join(run.folds),
            _NONE,
            _NONE,
            f"cannot be read: {error.code} {error.found or error.what}",
        )
    stamps = dict.fromkeys(stamp for config in configs for stamp in config.stamps)
    finished = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.finished_at))
    backbone = f"{configs[0].model.backbone} {configs[0].model.input_size} px"
    return run.label, backbone, ", ".join(run.folds), finished, dice, ", ".join(stamps) or _NONE


def _dice(run: TrainedRun) -> str:
    means = [_mean(folder) for folder in run.folds.values()]
    known = [mean for mean in means if mean is not None]
    if not known:
        return "not scored"
    part = "" if len(known) == len(means) else f" ({len(known)} of {len(means)} folds)"
    told = "" if any((folder / SUMMARY_FILE).is_file() for folder in run.folds.values()) else " (as exported)"
    return f"{sum(known) / len(known):.3f}{part}{told}"


def _mean(folder: Path) -> float | None:
    if (folder / SUMMARY_FILE).is_file():
        return read_json(Summary, folder / SUMMARY_FILE).foreground_mean.Dice
    exported = folder / EXPORTED_SCORES_FILE
    return read_json(ExportedScores, exported).dice if exported.is_file() else None
