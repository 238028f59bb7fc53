"""A folder of predictions scored against a folder of references, with all that the files around them say.

dataset.json (or the command line) gives the labels, samora.json beside it the patients and whether spacing is known;
run.json in the folder of predictions, or config.json of the fold they validate, gives the stamps and the cases to be
scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from samora_pipeline.contracts.dataset import SamoraJson, read_dataset_json
from samora_pipeline.contracts.json_io import parse, read_json, read_object
from samora_pipeline.contracts.labels import BACKGROUND, IGNORE, LabelScheme, label_scheme
from samora_pipeline.contracts.run import CONFIG_FILE, PHANTOM_STAMP, VALIDATION_FOLDER, RunConfig
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.contracts.scores import NSD_TOLERANCE, Convention, Summary
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.evaluation.metric import scored_metrics
from samora_pipeline.evaluation.scoring import Rules, pair_files, score_files
from samora_pipeline.evaluation.summary import label_names, summarize


def score_folder(
    references: Path,
    predictions: Path,
    labels: Path | LabelScheme | None = None,
    tolerance: float = NSD_TOLERANCE,
    processes: int = 1,
    convention: Convention = "medpy",
    metrics: tuple[str, ...] = (),
) -> Summary:
    """Score every reference, or, in a fold's validation folder, the cases of that fold; nothing is written.

    ``labels`` is a dataset.json or the scheme itself; by default dataset.json is looked for beside ``references``, in
    it, and in ``predictions`` (where nnU-Net leaves a copy). ``tolerance`` of the NSD is in mm. ``metrics`` names more
    metrics than the registered ones, as ``package.module:Class``.

    Raises:
        UsageError: ``E-EVAL-08`` for a folder that is not there, ``E-NAME-01`` for a name that leads to no metric.
        DataError: ``E-EVAL-07`` when nothing says what the label values mean, ``E-EVAL-01`` for missing files,
            ``E-EVAL-04`` naming every case that cannot be scored.
    """
    for folder in (references, predictions):
        if not folder.is_dir():
            raise UsageError("E-EVAL-08", folder=folder)
    records = [metric.record for metric in scored_metrics(metrics)]
    described = _describe(labels, references, predictions)
    ours = described.ours
    config = _fold_config(predictions)
    pairs = pair_files(references, predictions, described.file_ending, config.scored if config else None)
    rules = Rules(described.scheme, tolerance, ours.spacing_known, convention, metrics)
    cases = score_files(pairs.files, rules, ours.patients, config.fold if config else None, processes)
    stamps = [PHANTOM_STAMP] * ours.phantom + list(config.stamps if config else _recorded_stamps(predictions))
    return summarize(
        cases,
        label_names(described.scheme),
        tolerance=tolerance,
        distance_unit="mm" if ours.spacing_known else "voxel",
        convention=convention,
        stamps=tuple(dict.fromkeys(stamps)),
        unscored=pairs.unscored,
        metrics=records,
    )


def named_labels(names: Sequence[str]) -> LabelScheme:
    """The scheme of ``NAME=VALUE`` words; ``whole=1+2`` is a region, ``ignore=9`` carries no score.

    Raises:
        UsageError: ``E-ARG-17`` for a word of another form.
        DataError: ``E-LABEL-01`` for values that contradict each other.
    """
    labels: dict[str, int | tuple[int, ...]] = {BACKGROUND: 0}
    for word in names:
        name, _, values = word.partition("=")
        if not name or not all(value.isdigit() for value in values.split("+")):
            raise UsageError("E-ARG-17", found=word)
        listed = tuple(int(value) for value in values.split("+"))
        labels[name] = listed if len(listed) > 1 else listed[0]
    if not any(isinstance(values, tuple) for values in labels.values()):
        return label_scheme(labels, None)
    # A scheme with regions declares the order in which they are painted. Scores do not depend on it.
    painted = [name for name in labels if name not in (BACKGROUND, IGNORE)]
    return label_scheme(labels, tuple(range(1, len(painted) + 1)))


@dataclass(frozen=True)
class _Description:
    scheme: LabelScheme
    file_ending: str | None = None
    ours: SamoraJson = field(default_factory=SamoraJson)


def _describe(labels: Path | LabelScheme | None, references: Path, predictions: Path) -> _Description:
    beside = references.resolve().parent
    ours = _ours(beside)
    if isinstance(labels, LabelScheme):
        return _Description(labels, None, ours)
    if labels is None:
        places = (beside, references, predictions)
        labels = next((path for place in places if (path := place / "dataset.json").is_file()), None)
        if labels is None:
            raise DataError("E-EVAL-07", found=f"no dataset.json in {', '.join(str(place) for place in places)}")
    description = read_dataset_json(labels)
    own = _ours(labels.resolve().parent)
    return _Description(description.scheme, description.file_ending, own if own != SamoraJson() else ours)


def _ours(folder: Path) -> SamoraJson:
    path = folder / "samora.json"
    return read_json(SamoraJson, path) if path.is_file() else SamoraJson()


def _fold_config(predictions: Path) -> RunConfig | None:
    folder = predictions.resolve()
    path = folder.parent / CONFIG_FILE
    # Its cases and its warnings are read; nothing is built from what it names.
    return read_run_config(path, allow_code=True) if folder.name == VALIDATION_FOLDER and path.is_file() else None


def _recorded_stamps(predictions: Path) -> Iterable[str]:
    # A prediction that was made in shares has one record per share: run.json or run.1_of_4.json, ...
    for path in sorted(predictions.glob("run*.json")):
        record = read_object(path)
        if isinstance(record, dict) and "stamps" in record:
            yield from parse(tuple[str, ...], record["stamps"], f"{path}.stamps")
