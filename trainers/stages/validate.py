"""Validation: the fold's scored cases as whole volumes, from the raw files, scored under both protocols.

It uses what users get (the Predictor on the final checkpoint), so a score here is a score of ``samora_predict``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from samora_pipeline import distributed
from samora_pipeline.contracts.dataset import RawCase, RawDataset
from samora_pipeline.contracts.json_io import write_json
from samora_pipeline.contracts.postprocessing import POSTPROCESSING_FILE
from samora_pipeline.contracts.run import SUMMARY_FILE, VALIDATION_FOLDER, RunConfig
from samora_pipeline.contracts.scores import NSD_TOLERANCE, Summary
from samora_pipeline.errors import DataError, FailedCasesError, SamoraError

if TYPE_CHECKING:
    from samora_pipeline.reporting.report_run import Places

logger = logging.getLogger("samora")

OVERLAYS_FILE = "overlays.png"
TUNING_FOLDER = "tuning"
"""predictions of held-out training cases, before any post-processing"""


@dataclass(frozen=True)
class ValidationInputs:
    """The fold to validate. ``cases`` are the scored cases that raw files were found for."""

    config: RunConfig
    folder: Path
    cases: tuple[RawCase, ...]
    raw: RawDataset
    weights: Path


@dataclass(frozen=True)
class Validation:
    """What came of it: the scores (None where no case has labels), seconds per volume, and where it lies."""

    summary: Summary | None
    seconds_per_volume: float


def scored_cases(raw: RawDataset, names: Sequence[str]) -> tuple[RawCase, ...]:
    """The raw files of the scored cases; cases without files are left out."""
    found = raw.test() | raw.training()
    return tuple(found[name] for name in names if name in found)


def run_validation(inputs: ValidationInputs, device: torch.device) -> Validation:
    """Predict into ``validation/``, score, and write summary.json with its CSV; the ranks share the cases.

    Where training cases were held out, post-processing is chosen on them first (``postprocessing.json``); the scored
    cases are never looked at for that.

    Raises:
        FailedCasesError: ``E-VAL-01`` when cases could not be predicted; no score is written then.
        DataError: ``E-VAL-03`` when the files of a held-out case are missing.
    """
    if inputs.config.held_out:
        _tune(inputs, device)
    begun = time.monotonic()
    predictions = inputs.folder / VALIDATION_FOLDER
    _predict(inputs, inputs.cases, predictions, device, postprocessing=True)
    seconds = (time.monotonic() - begun) / max(1, len(inputs.cases))
    summary = _score(inputs, predictions) if distributed.is_main() else None
    distributed.barrier()
    return Validation(summary, seconds)


def write_run_report(folder: Path, places: Places, device: torch.device, *, missing_only: bool = False) -> None:
    """Write report.html of a scored fold. What cannot be shown is left out of it, and no fault of it fails the run.

    A report that is there already stays as it is with ``missing_only``.
    """
    from samora_pipeline.evaluation.run_scores import read_run
    from samora_pipeline.reporting.report import REPORT_FILE, write_report
    from samora_pipeline.reporting.report_run import ReportedRun

    if missing_only and (folder / REPORT_FILE).is_file():
        return
    try:
        run = ReportedRun(read_run(str(folder), folder.parent, allow_code=True), places)
        logger.info("report: %s", write_report(run, folder / REPORT_FILE, device))
    except SamoraError as error:
        logger.warning("the run is scored, but its report could not be written:\n%s", error.text())
    except Exception as error:
        # Hours of training stand behind the scores, which are written: a fault of ours must not call them a failure.
        logger.warning(
            "the run is scored, but its report could not be written (%s: %s). This is a fault in samora_pipeline; "
            "samora_report %s --debug  shows where",
            type(error).__name__,
            error,
            folder,
        )


def _tune(inputs: ValidationInputs, device: torch.device) -> None:
    """Predict the held-out training cases and write which labels keep their largest component only."""
    from samora_pipeline.imaging.files import read_volume
    from samora_pipeline.imaging.volume import label_array
    from samora_pipeline.inference.postprocessing import choose

    known = inputs.raw.training()
    cases = tuple(known[name] for name in inputs.config.held_out if name in known and known[name].label is not None)
    if len(cases) < len(inputs.config.held_out):
        raise DataError(
            "E-VAL-03",
            found=f"{len(cases)} of {len(inputs.config.held_out)} with image and label in {inputs.raw.folder}",
            expected=", ".join(inputs.config.held_out),
        )
    predictions, ending = inputs.folder / TUNING_FOLDER, inputs.raw.description.file_ending
    _predict(inputs, cases, predictions, device, postprocessing=False)
    if distributed.is_main():
        chosen = choose(
            [
                (
                    case.name,
                    label_array(read_volume(case.label)),
                    label_array(read_volume(predictions / f"{case.name}{ending}")),
                )
                for case in cases
                if case.label is not None
            ],
            inputs.config.labels,
        )
        write_json(chosen, inputs.folder / POSTPROCESSING_FILE)
        names = ", ".join(step.name for step in chosen.kept) or "none"
        logger.info("largest component only, chosen on %d held-out training cases: %s", len(cases), names)
    distributed.barrier()


def _predict(
    inputs: ValidationInputs, cases: Sequence[RawCase], output: Path, device: torch.device, *, postprocessing: bool
) -> None:
    """Predict cases; the ranks share them. Raises ``E-VAL-01`` on every rank when one of them failed."""
    from samora_pipeline.inference.case import InputCase
    from samora_pipeline.inference.job import output_files, predict_cases
    from samora_pipeline.inference.predictor import Predictor
    from samora_pipeline.inference.record import OutputFolder, model_record, prediction_record

    config, folder = inputs.config, inputs.folder
    own = [InputCase(case.name, case.channels, inputs.raw.description.file_ending) for case in cases]
    files = [(own[i], output_files(own[i], output)) for i in distributed.own_share(list(range(len(own))))]
    model = model_record(folder.parent, {config.fold: folder}, config.base_digest, postprocessing=postprocessing)
    shard = (distributed.rank() + 1, distributed.world_size())
    result = OutputFolder(output, model, shard, resume=True)
    done = [case.name for case, written in files if result.finished(case.name, case.channels, written.paths)]
    to_do = [(case, written) for case, written in files if case.name not in done]
    predictor = Predictor.load(
        folder, weights_folder=inputs.weights, device=device, postprocessing=postprocessing, allow_code=True
    )
    result.start(prediction_record(predictor, model, config), done, [case.name for case, _ in to_do])
    failures = predict_cases(predictor, to_do, result)
    result.write_failures(failures)
    # All ranks have to agree, or some would wait for the others' scores forever.
    if distributed.sum_over_ranks(torch.tensor([float(len(failures))], device=device)).item() > 0:
        raise FailedCasesError(
            "E-VAL-01",
            found="; ".join((f"{name}: {failure.code} {failure.what}" for name, failure in failures.items()))
            or "a case of another process",
        )


def _score(inputs: ValidationInputs, predictions: Path) -> Summary | None:
    from samora_pipeline.evaluation.scoring import Rules, score_files
    from samora_pipeline.evaluation.summary import label_names, summarize
    from samora_pipeline.evaluation.tables import write_summary

    ours, ending = inputs.raw.ours, inputs.raw.description.file_ending
    pairs = [(case.label, predictions / f"{case.name}{ending}") for case in inputs.cases if case.label is not None]
    if not pairs:
        logger.info("none of the scored cases has labels: predicted, not scored")
        return None
    scores = score_files(
        pairs, Rules(inputs.config.labels, NSD_TOLERANCE, ours.spacing_known), ours.patients, fold=inputs.config.fold
    )
    summary = summarize(
        scores,
        label_names(inputs.config.labels),
        tolerance=NSD_TOLERANCE,
        distance_unit="mm" if ours.spacing_known else "voxel",
        stamps=inputs.config.stamps,
    )
    _draw(inputs, predictions, summary)
    # Written last: it says that the validation is complete.
    write_summary(summary, inputs.folder / SUMMARY_FILE)
    return summary


def _draw(inputs: ValidationInputs, predictions: Path, summary: Summary) -> None:
    """The worst, the median and the best case as overlays."""
    from samora_pipeline.reporting.overlays import draw_overlays
    from samora_pipeline.reporting.pictures import CaseFiles, make_pictures

    config, ending = inputs.config, inputs.raw.description.file_ending
    files = {
        case.name: CaseFiles(case.channels, case.label, predictions / f"{case.name}{ending}")
        for case in inputs.cases
        if case.label is not None
    }
    pictures = make_pictures(summary, files.__getitem__, config.plans, config.labels)
    if pictures:
        path = inputs.folder / OVERLAYS_FILE
        draw_overlays(path, pictures, config.labels, config.plans.slice_axis.value, config.stamps)
