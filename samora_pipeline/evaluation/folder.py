"""A folder of predictions scored against a folder of references, with all that the files around them say.

dataset.json gives the labels, samora.json beside it the patients and whether spacing is known; run.json in the folder
of predictions, or config.json of the fold they validate, gives the stamps and the cases to be scored.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from samora_pipeline.contracts.dataset import SamoraJson, read_dataset_json
from samora_pipeline.contracts.json_io import parse, read_json, read_object
from samora_pipeline.contracts.run import CONFIG_FILE, PHANTOM_STAMP, VALIDATION_FOLDER, RunConfig
from samora_pipeline.contracts.scores import NSD_TOLERANCE, Summary
from samora_pipeline.errors import UsageError
from samora_pipeline.evaluation.scoring import Rules, pair_files, score_files
from samora_pipeline.evaluation.summary import label_names, summarize


def score_folder(
    references: Path,
    predictions: Path,
    dataset_json: Path | None = None,
    tolerance: float = NSD_TOLERANCE,
    processes: int = 1,
) -> Summary:
    """Score every reference, or, in a fold's validation folder, the cases of that fold; nothing is written.

    ``dataset_json`` defaults to the one in the parent of ``references``; ``tolerance`` of the NSD is in mm.

    Raises:
        UsageError: ``E-ARG-05`` for a folder that is not there.
        DataError: ``E-EVAL-01`` for missing files, ``E-EVAL-04`` naming every case that cannot be scored.
    """
    for folder in (references, predictions):
        if not folder.is_dir():
            raise UsageError("E-ARG-05", f"there is no folder {folder}", fix="samora_evaluate -g LABELS -p PREDS")
    path = dataset_json or references.resolve().parent / "dataset.json"
    description = read_dataset_json(path)
    ours_path = path.with_name("samora.json")
    ours = read_json(SamoraJson, ours_path) if ours_path.is_file() else SamoraJson()
    config = _fold_config(predictions)
    pairs = pair_files(references, predictions, description.file_ending, config.scored if config else None)
    rules = Rules(description.scheme, tolerance, ours.spacing_known)
    cases = score_files(pairs.files, rules, ours.patients, config.fold if config else None, processes)
    stamps = [PHANTOM_STAMP] * ours.phantom + list(config.stamps if config else _recorded_stamps(predictions))
    return summarize(
        cases,
        label_names(description.scheme),
        tolerance=tolerance,
        distance_unit="mm" if ours.spacing_known else "voxel",
        stamps=tuple(dict.fromkeys(stamps)),
        unscored=pairs.unscored,
    )


def _fold_config(predictions: Path) -> RunConfig | None:
    folder = predictions.resolve()
    path = folder.parent / CONFIG_FILE
    return read_json(RunConfig, path) if folder.name == VALIDATION_FOLDER and path.is_file() else None


def _recorded_stamps(predictions: Path) -> Iterable[str]:
    # A prediction that was made in shares has one record per share: run.json or run.1_of_4.json, ...
    for path in sorted(predictions.glob("run*.json")):
        record = read_object(path)
        if isinstance(record, dict) and "stamps" in record:
            yield from parse(tuple[str, ...], record["stamps"], f"{path}.stamps")
