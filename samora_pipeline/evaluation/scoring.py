"""From files to scores: one case, or a folder of predictions against a folder of references."""

import math
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.scores import NSD_TOLERANCE, CaseMetrics, Convention, SamFamilyCase
from samora_pipeline.errors import DataError, SamoraError, UsageError
from samora_pipeline.evaluation.metric import label_key, physical, sam_family, scored_metrics
from samora_pipeline.evaluation.metrics import measure
from samora_pipeline.evaluation.surfaces import Labels
from samora_pipeline.imaging.files import read_grid, read_volume, stem
from samora_pipeline.imaging.inputs import IMAGE_ENDINGS, case_name, fault_of_name, walk
from samora_pipeline.imaging.pictures import is_picture, read_picture
from samora_pipeline.imaging.volume import Volume, label_array, on_grid_of
from samora_pipeline.parallel import SERIAL, Engine
from samora_pipeline.registry import shortened, suggestion


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


class CaseFiles(NamedTuple):
    """Reference and prediction of a case, and its name; without one it is called after the file of the reference."""

    reference: Path
    prediction: Path
    name: str = ""

    @property
    def case(self) -> str:
        """The name of the case."""
        return self.name or stem(self.reference)


Files = CaseFiles | tuple[Path, Path]
"""(reference, prediction), with a name of the case or without"""


@dataclass(frozen=True)
class CaseScores:
    """One case under both protocols."""

    physical: CaseMetrics
    sam_family: SamFamilyCase


def score_case(rules: Rules, files: Files) -> CaseScores:
    """Score (reference, prediction); case and patient have one name.

    A prediction in another order of axes than its reference is reordered, where both headers say where voxels lie.

    Raises:
        DataError: ``E-EVAL-02`` for grids that differ, ``E-EVAL-03`` for label values that are not declared,
            ``E-GEO-03`` for a reference without spacing where distances are in mm, ``E-CASE-02`` for a name that
            cannot be recorded, and whatever reading raises.
    """
    named = CaseFiles(*files)
    if fault := fault_of_name(named.case):
        raise fault
    reference_path, prediction_path, _ = named
    reference, prediction = _read(reference_path), _read(prediction_path)
    try:
        prediction = on_grid_of(reference, prediction)
    except DataError as error:
        sizes, expected = prediction.grid.shape, reference.grid.shape
        apart = f"corners up to {prediction.grid.corner_distance(reference.grid):.3g} mm apart"
        found = f"shape {sizes}, reference {expected}" if sizes != expected else apart
        raise DataError("E-EVAL-02", prediction=prediction, reference=reference, found=found) from error
    truth, guess, labels = label_array(reference), label_array(prediction), rules.labels
    _check_values(truth, labels.values, reference_path)
    _check_values(guess, labels.values - {labels.ignore}, prediction_path)
    organs = [values for _, values in labels.foreground]
    surfels = rules.convention == "deepmind"
    measured = {label_key(one.values): one for one in measure(truth, guess, organs, labels.ignore, surfels=surfels)}
    spacing = reference.grid.spacing if rules.spacing_known else (1.0, 1.0, 1.0)
    if spacing is None:
        why, found = "distances are asked for in mm", str(reference_path)
        raise DataError("E-GEO-03", path=reference_path, why=why, otherwise="", found=found)
    diagonal = math.hypot(*(size * step for size, step in zip(truth.shape, spacing, strict=True)))
    case, metrics = named.case, scored_metrics(rules.metrics)
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
) -> tuple[list[CaseFiles], tuple[str, ...]]:
    """Match the files of two folders by case name; ``cases`` are those to be scored (None: every reference).

    Both are walked, and cases named, as the input of a prediction is (``imaging.inputs``). Files with ``file_ending``
    are taken; in a folder that has none of them (or with None) any readable image. Returned are the pairs, and the
    names of the predictions that have no reference. ``named``: the cases were typed by their names.

    Raises:
        DataError: ``E-EVAL-01`` when there is no reference, or when a case lacks one of its files (all are named);
            ``E-EVAL-06`` when a folder holds two files of one case. UsageError: ``E-EVAL-09`` a typed name that no
            reference has.
    """
    known, present = _by_case(references, file_ending), _by_case(predictions, file_ending)
    if not known:
        found = f"no file with the ending {' or '.join(IMAGE_ENDINGS)}"
        raise DataError("E-EVAL-01", f"there is no reference to score against in {references}", found=found)
    wanted = list(known) if cases is None else sorted(cases)
    if named and (strange := [case for case in wanted if case not in known]):
        raise UsageError("E-EVAL-09", found=shortened(strange), **suggestion(strange[0], known))
    for files, folder, what in ((known, references, "reference"), (present, predictions, "prediction")):
        if missing := [case for case in wanted if case not in files]:
            lacking = f"{len(missing)} of {len(wanted)} cases have no {what} in {folder}"
            raise DataError("E-EVAL-01", lacking, found=f"missing: {shortened(missing)}")
    surplus = tuple(path.name for case, path in present.items() if case not in wanted)
    return [CaseFiles(known[case], present[case], case) for case in wanted], surplus


def label_values(files: Sequence[Files], engine: Engine = SERIAL) -> set[int]:
    """The label values other than 0 that occur in any of (reference, prediction) pairs that can be read.

    Raises:
        DataError: ``E-EVAL-04`` none of them can.
    """
    outcomes = engine.map(_values, _items(files), "reading label values")
    faults = {outcome.name: outcome.error for outcome in outcomes if outcome.error is not None}
    if len(faults) == len(files):
        raise unscorable(faults, len(files))
    return {value for outcome in outcomes for value in outcome.result or ()}


def states_spacing(path: Path) -> bool:
    """Whether a label map states the size of its voxels; True where that cannot be read, which scoring then tells."""
    try:
        grid = read_picture(path, label=True).grid if is_picture(path) else read_grid(path)
    except DataError:
        return True
    return grid.spacing is not None


def _read(path: Path) -> Volume:
    return read_picture(path, label=True) if is_picture(path) else read_volume(path)


def _values(files: Files) -> set[int]:
    return {int(value) for path in files[:2] for value in np.unique(label_array(_read(path)))} - {0}


def _items(files: Sequence[Files]) -> list[tuple[str, CaseFiles]]:
    named = [CaseFiles(*pair) for pair in files]
    return [(pair.case, pair) for pair in named]


def unscorable(faults: Mapping[str, SamoraError], total: int) -> DataError:
    """The error for cases that cannot be scored, of ``total``."""
    found = shortened((f"\n    {name}: {error.what} ({error.found})" for name, error in faults.items()), "")
    return DataError("E-EVAL-04", number=len(faults), number2=total, found=found)


def score_files(
    files: Sequence[Files],
    rules: Rules,
    patients: Mapping[str, str] | None = None,
    fold: str | None = None,
    engine: Engine = SERIAL,
    failed: MutableMapping[str, SamoraError] | None = None,
) -> list[CaseScores]:
    """Score (reference, prediction) pairs; ``patients`` maps a case to its patient where they differ.

    ``failed`` takes the cases that cannot be scored, with their faults; None: such a case stops all.

    Raises:
        DataError: ``E-EVAL-04`` naming every case that cannot be scored, with its fault.
    """
    outcomes = engine.map(partial(score_case, rules), _items(files), "scoring")
    faults = {outcome.name: outcome.error for outcome in outcomes if outcome.error is not None}
    if faults and (failed is None or len(faults) == len(files)):
        raise unscorable(faults, len(files))
    if failed is not None:
        failed.update(faults)
    known = patients or {}
    return [
        replace(one, physical=replace(one.physical, patient=known.get(one.physical.case, one.physical.case), fold=fold))
        for one in (outcome.result for outcome in outcomes)
        if one is not None
    ]


def _by_case(folder: Path, file_ending: str | None) -> dict[str, Path]:
    named = {path: case_name(folder, content.folder, stem(path)) for content in walk(folder) for path in content.images}
    own = [path for path in named if file_ending and path.name.endswith(file_ending)]
    found: dict[str, Path] = {}
    for path in sorted(own or named, key=lambda path: (named[path], path)):
        case = named[path]
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
