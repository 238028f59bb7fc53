"""From files to scores: one case, or a folder of predictions against a folder of references."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.scores import NSD_TOLERANCE, CaseMetrics, Convention, SamFamilyCase
from samora_pipeline.errors import DataError, SamoraError, UsageError
from samora_pipeline.evaluation.metric import label_key, physical, sam_family, scored_metrics
from samora_pipeline.evaluation.metrics import measure
from samora_pipeline.evaluation.surfaces import Labels
from samora_pipeline.imaging.files import READABLE, read_volume, stem
from samora_pipeline.imaging.pictures import read_picture
from samora_pipeline.imaging.volume import Volume, label_array
from samora_pipeline.parallel import map_cases
from samora_pipeline.registry import shortened, suggestion

_PICTURE = ".png"


@dataclass(frozen=True)
class Rules:
    """What is scored and how. The NSD ``tolerance`` is in mm, or in voxels where the spacing is not known.

    ``metrics`` names what is scored beside the registered metrics: ``package.module:Class``.
    """

    labels: LabelScheme
    tolerance: float = NSD_TOLERANCE
    spacing_known: bool = True
    convention: Convention = "medpy"
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseScores:
    """One case under both protocols."""

    physical: CaseMetrics
    sam_family: SamFamilyCase


def score_case(rules: Rules, files: tuple[Path, Path]) -> CaseScores:
    """Score (reference, prediction); case and patient are named after the reference file.

    Raises:
        DataError: ``E-EVAL-02`` for grids that differ, ``E-EVAL-03`` for label values that are not declared, and
            whatever reading the two files raises.
    """
    (reference_path, prediction_path), (reference, prediction) = files, map(_read, files)
    if not prediction.grid.matches(reference.grid):
        sizes, expected = prediction.grid.shape, reference.grid.shape
        apart = f"corners up to {prediction.grid.corner_distance(reference.grid):.3g} mm apart"
        found = f"shape {sizes}, reference {expected}" if sizes != expected else apart
        raise DataError("E-EVAL-02", prediction=prediction, reference=reference, found=found)
    truth, guess, labels = label_array(reference), label_array(prediction), rules.labels
    _check_values(truth, labels.values, reference_path)
    _check_values(guess, labels.values - {labels.ignore}, prediction_path)
    organs = [values for _, values in labels.foreground]
    surfels = rules.convention == "deepmind"
    measured = {label_key(one.values): one for one in measure(truth, guess, organs, labels.ignore, surfels=surfels)}
    spacing = reference.grid.spacing if rules.spacing_known else (1.0, 1.0, 1.0)
    diagonal = math.hypot(*(size * step for size, step in zip(truth.shape, spacing, strict=True)))
    case, metrics = stem(reference_path), scored_metrics(rules.metrics)
    score = partial(physical, diagonal=diagonal, convention=rules.convention, metrics=metrics)
    scores = {key: score(organ, spacing, rules.tolerance) for key, organ in measured.items()}
    return CaseScores(
        CaseMetrics(case, reference_path.name, prediction_path.name, scores, patient=case),
        SamFamilyCase(case, {key: sam_family(organ, metrics=metrics) for key, organ in measured.items()}),
    )


def pair_files(
    references: Path,
    predictions: Path,
    file_ending: str | None,
    cases: Collection[str] | None = None,
    *,
    named: bool = False,
) -> tuple[list[tuple[Path, Path]], tuple[str, ...]]:
    """Match the files of two folders by case name; ``cases`` are those to be scored (None: every reference).

    Files with ``file_ending`` are taken; in a folder that has none of them (or with None) any readable volume. Returned
    are (reference, prediction) pairs, and the names of the predictions that have no reference. ``named``: the cases
    were typed by their names.

    Raises:
        DataError: ``E-EVAL-01`` when there is no reference, or when a case lacks one of its files (all are named);
            ``E-EVAL-06`` when a folder holds two files of one case. UsageError: ``E-EVAL-09`` a typed name that no
            reference has.
    """
    known, present = _by_case(references, file_ending), _by_case(predictions, file_ending)
    if not known:
        found = f"no file with the ending {' or '.join(READABLE)}"
        raise DataError("E-EVAL-01", f"there is no reference to score against in {references}", found=found)
    wanted = list(known) if cases is None else sorted(cases)
    if named and (strange := [case for case in wanted if case not in known]):
        raise UsageError("E-EVAL-09", found=shortened(strange), **suggestion(strange[0], known))
    for files, folder, what in ((known, references, "reference"), (present, predictions, "prediction")):
        if missing := [case for case in wanted if case not in files]:
            lacking = f"{len(missing)} of {len(wanted)} cases have no {what} in {folder}"
            raise DataError("E-EVAL-01", lacking, found=f"missing: {shortened(missing)}")
    surplus = tuple(path.name for case, path in present.items() if case not in wanted)
    return [(known[case], present[case]) for case in wanted], surplus


def label_values(files: Sequence[tuple[Path, Path]], processes: int = 1) -> set[int]:
    """The label values other than 0 that occur in any of (reference, prediction) pairs."""
    outcomes = map_cases(_values, [(stem(pair[0]), pair) for pair in files], processes, "reading label values")
    if faults := [(outcome.name, outcome.error) for outcome in outcomes if outcome.error is not None]:
        raise _unscorable(faults, len(files))
    return {value for outcome in outcomes for value in outcome.result or ()}


def _read(path: Path) -> Volume:
    return read_picture(path, label=True) if path.name.lower().endswith(_PICTURE) else read_volume(path)


def _values(files: tuple[Path, Path]) -> set[int]:
    return {int(value) for path in files for value in np.unique(label_array(_read(path)))} - {0}


def _unscorable(faults: Sequence[tuple[str, SamoraError]], total: int) -> DataError:
    found = shortened((f"\n    {name}: {error.what} ({error.found})" for name, error in faults), "")
    return DataError("E-EVAL-04", number=len(faults), number2=total, found=found)


def score_files(
    files: Sequence[tuple[Path, Path]],
    rules: Rules,
    patients: Mapping[str, str] | None = None,
    fold: str | None = None,
    processes: int = 1,
) -> list[CaseScores]:
    """Score (reference, prediction) pairs; ``patients`` maps a case to its patient where they differ.

    Raises:
        DataError: ``E-EVAL-04`` naming every case that cannot be scored, with its fault.
    """
    outcomes = map_cases(partial(score_case, rules), [(stem(pair[0]), pair) for pair in files], processes, "scoring")
    if faults := [(outcome.name, outcome.error) for outcome in outcomes if outcome.error is not None]:
        raise _unscorable(faults, len(files))
    known = patients or {}
    return [
        replace(one, physical=replace(one.physical, patient=known.get(one.physical.case, one.physical.case), fold=fold))
        for one in (outcome.result for outcome in outcomes)
        if one is not None
    ]


def _by_case(folder: Path, file_ending: str | None) -> dict[str, Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    own = [path for path in files if file_ending and path.name.endswith(file_ending)]
    found: dict[str, Path] = {}
    for path in own or [path for path in files if path.name.endswith((*READABLE, _PICTURE))]:
        case = stem(path)
        if case in found:
            raise DataError("E-EVAL-06", folder=folder, case=case, found=f"{found[case].name}, {path.name}")
        found[case] = path
    return found


def _check_values(array: Labels, declared: Collection[int | None], path: Path) -> None:
    known = np.zeros(256, dtype=np.bool_)
    known[[value for value in declared if value is not None]] = True
    counts = np.zeros(256, dtype=np.int64)
    for plane in np.moveaxis(array, -1, 0):
        counts += np.bincount(plane.ravel("K"), minlength=256)
    undeclared = np.flatnonzero((counts > 0) & ~known)
    if undeclared.size:
        values = ", ".join(map(str, undeclared))
        declared_values = ", ".join(str(value) for value in np.flatnonzero(known))
        number = int(counts[undeclared].sum())
        raise DataError("E-EVAL-03", path=path, value=declared_values, found=f"{values} in {number} voxels")
