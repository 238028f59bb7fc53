"""The scans of a raw dataset that may be labelled further, and which of their slices have labels already."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.dataset import RawCase, RawDataset, read_dataset
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.labelling import GIVEN_FOLDER, HISTORY_FILE, ROUND_FILE, History, Round
from samora_pipeline.contracts.labels import IGNORE, LabelScheme, label_scheme
from samora_pipeline.contracts.plans import PLANS_FILE, Plans, SliceAxis
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_grid, read_volume
from samora_pipeline.imaging.volume import Volume, label_array, on_grid_of, slice_geometry
from samora_pipeline.labelling.scoring import Open, close
from samora_pipeline.paths import Roots

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LabelledDataset:
    """A raw dataset that is being labelled: its cases, its labels with a value for ``ignore``, the plane of slices."""

    name: str
    raw: RawDataset
    plane: SliceAxis
    scheme: LabelScheme

    @property
    def ignore(self) -> int:
        """The value of what has no label yet."""
        if self.scheme.ignore is None:
            raise ValueError("the scheme of a labelled dataset has a value for ignore")
        return self.scheme.ignore

    def history(self) -> History:
        """The rounds that were added so far."""
        path = self.raw.folder / HISTORY_FILE
        return read_json(History, path) if path.is_file() else History()


def open_labelled(token: str, roots: Roots) -> LabelledDataset:
    """Find a dataset by number, name or path; its plan says in which plane slices lie.

    Raises:
        DataError: ``E-NAME-02`` no such dataset, ``E-PLAN-01`` it has no plan, ``E-ROUND-09`` 255 labels, which leaves
            no value for ``ignore``.
    """
    place = roots.dataset(token)
    path = roots.preprocessed / place.folder_name / PLANS_FILE
    if not path.is_file():
        raise DataError("E-PLAN-01", place=place, found=f"no {path}")
    raw = read_dataset(place.raw)
    return LabelledDataset(
        place.folder_name, raw, read_json(Plans, path).slice_axis.value, with_ignore(raw, place.folder_name)
    )


def with_ignore(raw: RawDataset, name: str) -> LabelScheme:
    """The labels of a dataset; where it declares no ``ignore``, that is the value after the last one."""
    scheme = raw.scheme
    if scheme.ignore is not None:
        return scheme
    value = max(scheme.values) + 1
    if value > 255:
        raise DataError("E-ROUND-09", dataset=name, found=f"the value {value - 1}")
    return label_scheme({**raw.description.labels, IGNORE: value}, raw.description.regions_class_order)


def scans_to_label(dataset: LabelledDataset, left_out: Collection[str]) -> dict[str, RawCase]:
    """Cases of imagesTr and imagesUn by name; without those of a published test set and those ``left_out``."""
    published = dataset.raw.ours.published_split
    hidden = {*left_out, *(published.test if published else ())}
    cases = dataset.raw.training() | dataset.raw.unlabelled()
    return {name: case for name, case in sorted(cases.items()) if name not in hidden}


def file_axis(case: RawCase, plane: SliceAxis) -> int:
    """The axis of the file (0, 1, 2) that slices of the plane are counted along."""
    return slice_geometry(read_grid(case.channels[0]), plane).permutation[0]


def labels_of(case: RawCase, scan: Volume, ignore: int) -> Labels:
    """The labels [X, Y, Z] on the grid of the scan; ``ignore`` throughout where there is no file.

    Raises:
        DataError: ``E-GEO-..``, ``E-LABEL-02``, ``E-IMG-..`` for a label map that does not fit or cannot be read.
    """
    if case.label is None:
        return np.full(scan.grid.shape, ignore, dtype=np.uint8)
    return label_array(on_grid_of(scan, read_volume(case.label)))


def open_slices(dataset: LabelledDataset, cases: dict[str, RawCase]) -> Open:
    """By case, the slices that have no label and no labelled neighbour; cases without any are left out."""
    opened = {}
    for name, case in cases.items():
        axis, grid = file_axis(case, dataset.plane), read_grid(case.channels[0])
        free = np.ones(grid.shape[axis], dtype=np.bool_)
        if case.label is not None:
            # What has no value for "ignore" is labelled throughout.
            scan = Volume(np.empty(0), grid, case.channels[0])
            mask = label_array(on_grid_of(scan, read_volume(case.label))) != dataset.scheme.ignore
            labelled = mask.any(axis=tuple({0, 1, 2} - {axis}))
            for index in np.flatnonzero(labelled):
                close(free, int(index))
        if free.any():
            opened[name] = free
    return opened


def close_asked(opened: Open, folders: Collection[Path]) -> None:
    """Take out what other hand-over folders ask for, and the neighbours of it.

    Raises:
        DataError: ``E-ROUND-02`` a folder that is none.
    """
    for folder in folders:
        for one in read_round(folder).slices:
            if one.case in opened:
                close(opened[one.case], one.index)


def read_round(folder: Path) -> Round:
    """The record of a hand-over folder.

    Raises:
        DataError: ``E-ROUND-02`` there is none, or its files of ``given`` are missing; ``E-JSON-..`` a damaged one.
    """
    path = folder / ROUND_FILE
    if not path.is_file() or not (folder / GIVEN_FOLDER).is_dir():
        raise DataError("E-ROUND-02", folder=folder, found=f"no {ROUND_FILE} or no folder {GIVEN_FOLDER} in {folder}")
    return read_json(Round, path)
