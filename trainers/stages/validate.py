"""Validation: the fold's scored cases as whole volumes, from the raw files, scored under both protocols.

It uses what users get (the Predictor on the final checkpoint), so a score here is a score of ``samora_predict``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from samora_pipeline import distributed
from samora_pipeline.contracts.dataset import RawCase
from samora_pipeline.contracts.failures import write_failures
from samora_pipeline.contracts.json_io import sealed, write_json
from samora_pipeline.contracts.postprocessing import POSTPROCESSING_FILE
from samora_pipeline.contracts.run import SUMMARY_FILE, VALIDATION_FOLDER, RunConfig
from samora_pipeline.contracts.scores import NSD_TOLERANCE, Summary
from samora_pipeline.errors import DataError, FailedCasesError, SamoraError
from samora_pipeline.registry import shortened

if TYPE_CHECKING:
    from samora_pipeline.reporting.report_run import Places
    from trainers.stages.stage import RunContext

logger = logging.getLogger("samora")

OVERLAYS_FILE = "overlays.png"
TUNING_FOLDER = "tuning"
"""predictions of held-out training cases, before any post-processing"""


def run_validation(config: RunConfig, context: RunContext, cases: Sequence[RawCase]) -> tuple[Summary | None, float]:
    """Predict into ``validation/``, score, and write summary.json with its CSV; the ranks share the cases.

    Where training cases were held out, post-processing is chosen on them first (``postprocessing.json``); the scored
    cases are never looked at for that.

    Args:
        config: the trained run.
        context: its places, and the device.
        cases: the scored cases that raw files were found for.

    Returns:
        The scores (None where no case has labels) and the seconds per volume.

    Raises:
        FailedCasesError: ``E-VAL-01`` when cases could not be predicted; no score is written then.
        DataError: ``E-VAL-03`` when the files of a held-out case are missing.
    """
    if config.held_out:
        _tune(config, context)
    begun = time.monotonic()
    predictions = context.folder / VALIDATION_FOLDER
    _predict(config, context, cases, predictions, postprocessing=True)
    seconds = (time.monotonic() - begun) / max(1, len(cases))
    summary = _score(config, context, cases, predictions) if distributed.is_main() else None
    distributed.barrier()
    return summary, seconds


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
        fault = f"{type(error).__name__}: {error}). This is a fault in samora_pipeline; samora_report {folder} --debug"
        logger.warning("the run is scored, but its report could not be written (%s  shows where", fault)


def _tune(config: RunConfig, context: RunContext) -> None:
    """Predict the held-out training cases and write which labels keep their largest component only."""
    from samora_pipeline.imaging.files import read_volume
    from samora_pipeline.imaging.volume import label_array
    from samora_pipeline.inference.postprocessing import choose

    raw, folder = context.dataset.raw, context.folder
    known = raw.training()
    cases = tuple(known[name] for name in config.held_out if name in known and known[name].label is not None)
    if len(cases) < len(config.held_out):
        raise DataError(
            "E-VAL-03",
            found=f"{len(cases)} of {len(config.held_out)} with image and label in {raw.folder}",
            expected=", ".join(config.held_out),
        )
    predictions, ending = folder / TUNING_FOLDER, raw.description.file_ending
    _predict(config, context, cases, predictions, postprocessing=False)
    if distributed.is_main():
        pairs = []
        for case in cases:
            if case.label is not None:
                reference, predicted = read_volume(case.label), read_volume(predictions / f"{case.name}{ending}")
                pairs.append((case.name, label_array(reference), label_array(predicted)))
        chosen = choose(pairs, config.labels)
        write_json(sealed(chosen), folder / POSTPROCESSING_FILE)
        names = ", ".join(step.name for step in chosen.kept) or "none"
        logger.info("largest component only, chosen on %d held-out training cases: %s", len(cases), names)
    distributed.barrier()


def _predict(
    config: RunConfig, context: RunContext, cases: Sequence[RawCase], output: Path, *, postprocessing: bool
) -> None:
    """Predict cases; the ranks share them. Raises ``E-VAL-01`` on every rank when one of them failed."""
    from samora_pipeline.inference.case import InputCase
    from samora_pipeline.inference.job import output_files, predict_cases
    from samora_pipeline.inference.predictor import Predictor
    from samora_pipeline.inference.record import OutputFolder, model_record, prediction_record

    folder, device, ending = context.folder, context.device, context.dataset.raw.description.file_ending
    own = [InputCase(case.name, case.channels, ending) for case in cases]
    files = [(own[i], output_files(own[i], output)) for i in distributed.own_share(list(range(len(own))))]
    model = model_record(folder.parent, {config.fold: folder}, config.base_digest, postprocessing=postprocessing)
    shard = (distributed.rank() + 1, distributed.world_size())
    result = OutputFolder(output, model, shard, resume=True)
    done = [case.name for case, written in files if result.finished(case.name, case.channels, written.paths)]
    to_do = [(case, written) for case, written in files if case.name not in done]
    predictor = Predictor.load(
        folder,
        weights_folder=context.weights,
        device=device,
        precision=context.arithmetic.name,
        postprocessing=postprocessing,
        allow_code=True,
    )
    result.start(prediction_record(predictor, model, config), done, [case.name for case, _ in to_do])
    failures = predict_cases(predictor, to_do, result)
    result.conclude()
    write_failures(failures, result.failures_path)
    # All ranks have to agree, or some would wait for the others' scores forever.
    if distributed.sum_over_ranks(torch.tensor([float(len(failures))], device=device)).item() > 0:
        raise FailedCasesError(
            "E-VAL-01",
            found=shortened((f"{name}: {failure.code} {failure.what}" for name, failure in failures.items()), "; ")
            or "a case of another process",
        )


def _score(config: RunConfig, context: RunContext, cases: Sequence[RawCase], predictions: Path) -> Summary | None:
    from samora_pipeline.evaluation.scoring import Rules, score_files
    from samora_pipeline.evaluation.summary import label_names, summarize
    from samora_pipeline.evaluation.tables import write_summary
    from samora_pipeline.reporting.overlays import draw_overlays
    from samora_pipeline.reporting.pictures import choose_cases, read_case, shown_case

    ours, ending = context.dataset.raw.ours, context.dataset.raw.description.file_ending
    pairs = [(case.label, predictions / f"{case.name}{ending}") for case in cases if case.label is not None]
    if not pairs:
        logger.info("none of the scored cases has labels: predicted, not scored")
        return None
    scores = score_files(
        pairs, Rules(config.labels, NSD_TOLERANCE, ours.spacing_known), ours.patients, fold=config.fold
    )
    summary = summarize(
        scores,
        label_names(config.labels),
        tolerance=NSD_TOLERANCE,
        distance_unit="mm" if ours.spacing_known else "voxel",
        warnings=config.warnings,
    )
    # The worst, the median and the best case.
    if chosen := choose_cases(summary):
        named = {case.name: case for case in cases}
        stacks = (
            read_case(named[one.case.case], [predictions / f"{one.case.case}{ending}"], config.plans) for one in chosen
        )
        shown = (shown_case(one, stack, [summary]) for one, stack in zip(chosen, stacks, strict=True))
        path = context.folder / OVERLAYS_FILE
        draw_overlays(path, shown, config.labels, config.plans.slice_axis.value, config.warnings)
    # Written last: it says that the validation is complete.
    write_summary(summary, context.folder / SUMMARY_FILE)
    return summary
