"""Validation: the fold's scored cases as whole volumes, from the raw files, scored under both protocols.

It uses what users get (the Predictor on the final checkpoint), so a score here is a score of ``samora_predict``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from samora_pipeline import distributed
from samora_pipeline.contracts.dataset import RawCase, RawDataset
from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT, SUMMARY_FILE, VALIDATION_FOLDER, RunConfig
from samora_pipeline.contracts.scores import NSD_TOLERANCE, Summary
from samora_pipeline.errors import FailedCasesError
from samora_pipeline.files import digest_file
from samora_pipeline.reproducibility import snapshot

logger = logging.getLogger("samora")

STAGE = "validate"
OVERLAYS_FILE = "overlays.png"


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

    Raises:
        FailedCasesError: ``E-VAL-01`` when cases could not be predicted; no score is written then.
    """
    begun = time.monotonic()
    predictions = inputs.folder / VALIDATION_FOLDER
    failed = _predict(inputs, predictions, device)
    seconds = (time.monotonic() - begun) / max(1, len(inputs.cases))
    # All ranks have to agree, or some would wait for the others' scores forever.
    if distributed.sum_over_ranks(torch.tensor([float(len(failed))], device=device)).item() > 0:
        raise FailedCasesError(
            "E-VAL-01",
            "cases could not be predicted, so nothing was scored",
            found="; ".join(f"{name}: {reason}" for name, reason in failed.items()) or "a case of another process",
            expected="readable volumes with the channels of the plan",
            fix="repair them, then run the same command with --stage validate -c",
        )
    summary = _score(inputs, predictions) if distributed.is_main() else None
    distributed.barrier()
    return Validation(summary, seconds)


def _predict(inputs: ValidationInputs, output: Path, device: torch.device) -> dict[str, str]:
    from samora_pipeline.inference.cases import InputCase
    from samora_pipeline.inference.job import output_files, predict_cases
    from samora_pipeline.inference.predictor import Predictor
    from samora_pipeline.inference.record import ModelRecord, OutputFolder, PredictionRecord

    config, folder = inputs.config, inputs.folder
    own = distributed.own_share(list(range(len(inputs.cases))))
    cases = [InputCase(inputs.cases[i].name, inputs.cases[i].channels, inputs.raw.description.file_ending) for i in own]
    model = ModelRecord(
        run=str(folder.parent),
        folds=(config.fold,),
        configs={config.fold: digest_file(folder / CONFIG_FILE)},
        checkpoints={config.fold: digest_file(folder / FINAL_CHECKPOINT)},
        base=config.base.digest,
        tta=False,
        save_probabilities=False,
    )
    shard = (distributed.rank() + 1, distributed.world_size())
    result = OutputFolder(output, model, shard, resume=True)
    files = {case.name: output_files(case, output, False) for case in cases}
    done = [case.name for case in cases if result.finished(case.name, case.channels, files[case.name])]
    to_do = [case for case in cases if case.name not in done]
    record = PredictionRecord(model, config.dataset, str(device), config.stamps, snapshot())
    result.start(record, done, [case.name for case in to_do])
    predictor = Predictor.load([folder], weights_folder=inputs.weights, device=device)
    failures = predict_cases(predictor, to_do, result, save_probabilities=False)
    result.write_failures(failures)
    return {name: f"{failure.code} {failure.what}" for name, failure in failures.items()}


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
