"""The ending of a study: scores of all finished runs are read, tables and pictures written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.studies.nnunet import NnunetRun
from benchmarks.studies.scored import Cell, Scored, complete_cells, read_summary
from benchmarks.studies.steps import TrainedRun
from benchmarks.studies.tables import compare_words, left_out_note, write_results
from benchmarks.studies.variants import NnunetVariant, Variant
from samora_pipeline.command_line import say
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import CONFIG_FILE, RunConfig
from samora_pipeline.contracts.stored_case import SLICES_FOLDER
from samora_pipeline.contracts.timing import TIMING_FILE, Timing
from samora_pipeline.errors import DataError
from trainers.study.processes import Launch, run_command
from trainers.study.session import LOGS
from trainers.study.state import StudyState

Run = TrainedRun | NnunetRun


def write_ending(
    folder: Path,
    state: StudyState,
    runs: Sequence[Run],
    variants: Sequence[Variant | NnunetVariant],
    lock: int,
    launch: Launch,
) -> None:
    """Write the overview and the curves, then samora_compare's tables and forest plots for each label budget.

    Raises:
        DataError: ``E-STUDY-12`` the variants of a seed have different base weights.
    """
    done = [run for run in runs if state.step(run.name).status == "done"]
    if not done:
        say("no run is scored yet: there is nothing to put into tables")
        return
    require_one_base([run for run in done if isinstance(run, TrainedRun)])
    cells, left_out = complete_cells([_scored(run, state) for run in done])
    notes = left_out_note(left_out) + _absent(state, runs, variants)
    for path in write_results(folder, cells, state, notes):
        say(f"written: {path}")
    own = {run.variant.name for run in done if isinstance(run, TrainedRun)}
    for budget in dict.fromkeys(cell.first.budget for cell in cells):
        compared = [cell for cell in cells if cell.first.budget == budget and cell.first.label in own]
        if len(compared) > 1:
            _compare(folder, budget, compared, _root(done), lock, launch)


def require_one_base(runs: Sequence[TrainedRun]) -> None:
    """Refuse to compare variants whose base weights differ within a seed (``E-STUDY-12``).

    SAM and SAM 2 have one base each.
    """
    found: dict[tuple[str, int], dict[str, str]] = {}
    for run in runs:
        config = read_json(RunConfig, run.folder / CONFIG_FILE)
        if not run.variant.unlabeled and config.base is not None:
            found.setdefault((config.model.backbone, config.seed), {})[config.base.digest] = run.name
    for (backbone, seed), bases in found.items():
        if len(bases) > 1:
            raise DataError(
                "E-STUDY-12",
                f"variants on {backbone} with seed {seed} have different base weights",
                found="; ".join(f"{digest[:12]} in {name}" for digest, name in bases.items()),
                expected="one base for all variants of a seed",
            )


def _scored(run: Run, state: StudyState) -> Scored:
    summary, variant = read_summary(run.summary), run.variant
    if isinstance(run, NnunetRun):
        hours = state.step(run.name).seconds / 3600
        return Scored(
            variant.name, variant.what, run.budget, run.seed, summary, run.folder, len(run.labelled), 0, hours
        )
    config = read_json(RunConfig, run.folder / CONFIG_FILE)
    timing = read_json(Timing, run.folder / TIMING_FILE)
    seconds = sum(stage.seconds for name, stage in timing.stages.items() if name != "validate")
    return Scored(
        variant.name,
        variant.what,
        run.budget,
        run.seed,
        summary,
        run.folder,
        len(config.selection.cases),
        _steps(run, config),
        seconds / 3600,
    )


def _steps(run: TrainedRun, config: RunConfig) -> int:
    """Steps of fine-tuning."""
    from samora_pipeline.slices.datasets import labelled_ids

    record = config.stage("finetune")
    if record is None:
        return 0
    settings = record.settings
    store = run.setting.roots.preprocessed / config.dataset / SLICES_FOLDER
    per_epoch = math.ceil(len(labelled_ids(config.selection, store)) / settings["batch"])
    return int(settings["epochs"] * min(per_epoch, settings["steps_per_epoch"] or per_epoch))


def _absent(state: StudyState, runs: Sequence[Run], variants: Sequence[Variant | NnunetVariant]) -> tuple[str, ...]:
    unfinished = [run.name for run in runs if state.step(run.name).status != "done"]
    notes = (f"not finished: {', '.join(unfinished)}",) if unfinished else ()
    foreign = any(isinstance(variant, NnunetVariant) for variant in variants)
    return notes if foreign else (*notes, "nnU-Net was not run")


def _root(runs: Sequence[Run]) -> Path:
    return runs[0].setting.roots.root


def _compare(folder: Path, budget: str, cells: Sequence[Cell], root: Path, lock: int, launch: Launch) -> None:
    output = folder / f"compare_{budget}"
    log = folder / LOGS / f"compare__{budget}.log"
    ended = run_command(compare_words(cells, root, output), log, lock, launch)
    say(f"written: {output}" if ended.code == 0 else f"samora_compare failed at {budget}: {ended.tail} (see {log})")
