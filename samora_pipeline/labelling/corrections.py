"""What an annotator brought back: edited files and verdicts of a hand-over folder, compared with what was handed over.

A label map (``CASE_labels``, or any file with voxels of ``ignore``) states every voxel that differs from the map that
was handed over: scribbles and slices of any plane. A proposal (``CASE_proposal``, or any other file) states the slices
that were asked for and that it changes, as a whole, and elsewhere the changed voxels alone. A slice whose proposal was
right as it is needs the verdict "accept".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.dataset import RawCase
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.labelling import (
    GIVEN_FOLDER,
    MAP_ENDING,
    PROPOSAL_ENDING,
    SCANS_FOLDER,
    VERDICTS_FILE,
    HandedCase,
    Round,
    Verdicts,
)
from samora_pipeline.errors import DataError
from samora_pipeline.files import digest_file
from samora_pipeline.imaging.files import READABLE, SEGMENTATION_ENDING, read_volume, stem
from samora_pipeline.imaging.itksnap import read_itksnap
from samora_pipeline.imaging.segmentations import read_segmentation
from samora_pipeline.imaging.volume import Volume, digest_voxels, label_array, on_grid_of
from samora_pipeline.labelling.scans import LabelledDataset, Labels
from samora_pipeline.labelling.suggest import ITKSNAP_FILE
from samora_pipeline.registry import suggestion

Mask = npt.NDArray[np.bool_]
_GRIDS = ("E-GEO-01", "E-GEO-02")
_DESCRIPTIONS = (".txt", ".label")


@dataclass(frozen=True)
class Correction:
    """What is said of a scan: ``values`` [X, Y, Z] where ``stated``; ``waiting`` are asked slices without a word.

    ``files`` were edited or accepted.
    """

    case: RawCase
    scan: Volume
    handed: HandedCase
    values: Labels
    stated: Mask
    files: tuple[str, ...]
    waiting: tuple[int, ...]


def read_correction(
    folder: Path, record: Round, name: str, dataset: LabelledDataset, *, accept_unchanged: bool = False
) -> Correction:
    """Read what was brought back of one scan.

    Args:
        folder: the hand-over folder.
        record: its round.json.
        name: the case.
        dataset: the raw dataset that it belongs to.
        accept_unchanged: proposals of asked slices that nobody changed are right.

    Raises:
        DataError: ``E-ROUND-06`` an edited image, ``E-ROUND-07`` an unknown name, ``E-ROUND-10`` overlapping segments,
            ``E-ROUND-11`` a value without a name, ``E-ROUND-12`` files that contradict each other, ``E-ROUND-13``
            verdicts of another round, ``E-ROUND-15`` what was given is not there, ``E-ROUND-16`` the dataset lacks the
            scan, ``E-ROUND-17`` another geometry, ``E-ROUND-18`` a map without any ``ignore``; ``E-IMG-..``,
            ``E-LABEL-02`` files that cannot be read.
    """
    handed, own = record.cases[name], folder / SCANS_FOLDER / name
    case = _raw_case(dataset, name)
    scan = _checked_scan(case, handed, own)
    given = {ending: _given(folder, name, handed, ending) for ending in (MAP_ENDING, PROPOSAL_ENDING)}
    accepted = set(record.asked(name)) if accept_unchanged else _accepted(folder, record, name)
    parts = {}
    for file, (values, is_map) in _brought(folder, record, name, scan, accepted, given[PROPOSAL_ENDING]).items():
        before = given[MAP_ENDING if is_map else PROPOSAL_ENDING]
        changed = np.not_equal(values, before)
        parts[file] = values, changed if is_map else _with_slices(changed, record, name, accepted)
    values, stated = _merged(parts, scan, name)
    said = _along(stated, handed.axis)
    waiting = tuple(index for index in record.asked(name) if not said[index])
    files = tuple(file for file, (_, mask) in parts.items() if mask.any())
    return Correction(case, scan, handed, values, stated, files, waiting)


def _brought(
    folder: Path, record: Round, name: str, scan: Volume, accepted: set[int], proposal: Labels
) -> dict[str, tuple[Labels, bool]]:
    """By file, its values and whether it is a label map; an accepted proposal counts although nobody edited it."""
    found = {}
    for path in _edited(folder / SCANS_FOLDER / name, record.cases[name]):
        values = _read_values(path, scan, record, folder)
        is_map = _is_map(path, name, values, record)
        if is_map and not (values == record.ignore).any():
            raise DataError("E-ROUND-18", path=path, found=f"no voxel of ignore in {path}")
        found[path.name] = values, is_map
    if accepted and all(is_map for _, is_map in found.values()):
        found[f"{name}{PROPOSAL_ENDING}"] = proposal, False
    return found


def _raw_case(dataset: LabelledDataset, name: str) -> RawCase:
    cases = dataset.raw.training() | dataset.raw.unlabelled()
    if name not in cases:
        raise DataError("E-ROUND-16", case=name, found=f"no {name} in imagesTr or imagesUn of {dataset.raw.folder}")
    return cases[name]


def _checked_scan(case: RawCase, handed: HandedCase, own: Path) -> Volume:
    """The first channel of the raw scan; the copies in the folder may be missing, but not differ."""
    scan = None
    for path in case.channels:
        for image in (path, own / path.name):
            if image.is_file():
                volume = read_volume(image)
                if digest_voxels(volume) != handed.images.get(path.name):
                    raise DataError("E-ROUND-06", path=image, found=str(image))
                scan = scan or volume
    if scan is None:
        raise DataError("E-ROUND-16", case=case.name, found=f"no {case.channels[0]}")
    return scan


def _given(folder: Path, name: str, handed: HandedCase, ending: str) -> Labels:
    path = folder / GIVEN_FOLDER / name / f"{name}{ending}"
    if not path.is_file() or digest_file(path) != handed.given[path.name]:
        raise DataError("E-ROUND-15", folder=path.parent, found=str(path))
    return label_array(read_volume(path))


def _accepted(folder: Path, record: Round, name: str) -> set[int]:
    path = folder / VERDICTS_FILE
    if not path.is_file():
        return set()
    verdicts = read_json(Verdicts, path)
    asked = {(one.case, one.index) for one in record.slices}
    strange = [one for one in verdicts.slices if (one.case, one.index) not in asked]
    if verdicts.identity != record.identity or strange:
        raise DataError("E-ROUND-13", path=path, found=verdicts.identity, expected=record.identity)
    return {one.index for one in verdicts.slices if one.case == name and one.verdict == "accept"}


def _edited(own: Path, handed: HandedCase) -> list[Path]:
    """Label files in the folder of a scan that are not as they were handed over."""
    files = [path for path in sorted(own.glob("[!.]*")) if path.name.lower().endswith(READABLE)]
    return [
        path for path in files if path.name not in handed.images and handed.given.get(path.name) != digest_file(path)
    ]


def _is_map(path: Path, name: str, values: Labels, record: Round) -> bool:
    if stem(path) == f"{name}{MAP_ENDING}".partition(".")[0]:
        return True
    proposal = stem(path) == f"{name}{PROPOSAL_ENDING}".partition(".")[0]
    return not proposal and bool((values == record.ignore).any())


def _read_values(path: Path, scan: Volume, record: Round, folder: Path) -> Labels:
    """The label values of a file on the grid of the scan, by the names of what is drawn."""
    try:
        if path.name.lower().endswith(SEGMENTATION_ENDING):
            return _painted(path, scan, record)
        values = label_array(on_grid_of(scan, read_volume(path)))
    except DataError as error:
        if error.code not in _GRIDS:
            raise
        raise DataError("E-ROUND-17", path=path, found=error.found, expected=error.expected) from error
    names = _names_of_values(path, folder)
    table = np.zeros(256, dtype=np.uint8)
    for value in np.unique(values[values > 0]).tolist():
        if value not in names:
            expected = ", ".join(f"{known} {own}" for known, own in names.items())
            raise DataError("E-ROUND-11", path=path, found=f"the value {value} in {path}", expected=expected)
        table[value] = _value_of(names[value], path, record)
    return table[values]


def _names_of_values(path: Path, folder: Path) -> dict[int, str]:
    """The label description beside the file, as ITK-SNAP exports it, else the one that was handed over."""
    beside = [one for one in sorted(path.parent.iterdir()) if one.suffix.lower() in _DESCRIPTIONS]
    return read_itksnap(beside[0] if beside else folder / ITKSNAP_FILE)


def _painted(path: Path, scan: Volume, record: Round) -> Labels:
    drawn = read_segmentation(path, scan)
    values = np.zeros(scan.grid.shape, dtype=np.uint8)
    known = np.zeros(drawn.layers.shape, dtype=np.bool_)
    for segment in drawn.segments:
        mask = drawn.mask(segment)
        known[..., segment.layer] |= mask
        # What is empty needs no name that is known: 3D Slicer adds such segments by itself.
        if not mask.any():
            continue
        if count := int((values[mask] > 0).sum()):
            raise DataError("E-ROUND-10", path=path, found=f'{count} voxels of "{segment.name}" and another one')
        values[mask] = _value_of(segment.name, path, record)
    if (unnamed := drawn.layers[(drawn.layers > 0) & ~known]).size:
        raise DataError("E-ROUND-11", path=path, found=f"{unnamed.size} voxels, value {unnamed[0]}, in {path}")
    return values


def _value_of(name: str, path: Path, record: Round) -> int:
    values = {entry.name: entry.value for entry in record.labels}
    if name not in values:
        near = suggestion(name, values)["typo"]
        meant = f'was it meant to be "{near[1]}"? ' if near else ""
        found, expected = f"{name} in {path}", ", ".join(values)
        raise DataError("E-ROUND-07", path=path, name=name, meant=meant, found=found, expected=expected)
    return values[name]


def _with_slices(changed: Mask, record: Round, name: str, accepted: set[int]) -> Mask:
    """What a proposal states: changed voxels, and the whole of an asked slice that was changed or accepted."""
    axis = record.cases[name].axis
    stated = changed.copy()
    looked_at = _along(changed, axis)
    for index in record.asked(name):
        if looked_at[index] or index in accepted:
            np.moveaxis(stated, axis, 0)[index] = True
    return stated


def _along(mask: Mask, axis: int) -> Mask:
    """Which slices along an axis hold anything."""
    return np.asarray(np.moveaxis(mask, axis, 0).reshape(mask.shape[axis], -1).any(axis=1), dtype=np.bool_)


def _merged(parts: Mapping[str, tuple[Labels, Mask]], scan: Volume, name: str) -> tuple[Labels, Mask]:
    values = np.zeros(scan.grid.shape, dtype=np.uint8)
    stated = np.zeros(scan.grid.shape, dtype=np.bool_)
    for file, (own, mask) in parts.items():
        if count := int((stated & mask & (values != own)).sum()):
            raise DataError("E-ROUND-12", case=name, found=f"{count} voxels of {file} and {', '.join(parts)}")
        values[mask], stated = own[mask], stated | mask
    return values, stated
