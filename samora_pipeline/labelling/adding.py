"""What a correction changes in the raw dataset, and writing it there: sparse labels, all else stays ``ignore``."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from samora_pipeline.contracts.dataset import RawDataset, read_dataset, write_dataset
from samora_pipeline.contracts.json_io import read_object, write_json
from samora_pipeline.contracts.label_table import label_table
from samora_pipeline.contracts.labelling import HISTORY_FILE, AddedRound, Round
from samora_pipeline.contracts.labels import BACKGROUND, IGNORE
from samora_pipeline.files import write_text
from samora_pipeline.imaging.files import write_labels
from samora_pipeline.labelling.corrections import Correction
from samora_pipeline.labelling.scans import LabelledDataset, Labels, labels_of

_NNUNET_SPLITS_FILE = "splits_final.json"


@dataclass(frozen=True)
class Change:
    """What a correction does to the labels of a scan, in voxels; ``labels`` are the labels afterwards [X, Y, Z].

    ``slices``: those with something stated, along the axis of the case. ``by_name``: stated voxels by label.
    """

    correction: Correction
    labels: Labels
    slices: tuple[int, ...]
    new: int
    altered: int
    withdrawn: int
    by_name: dict[str, int]

    @property
    def any(self) -> bool:
        """Whether the labels are others than before."""
        return bool(self.new or self.altered or self.withdrawn)


def change_of(correction: Correction, dataset: LabelledDataset) -> Change:
    """Compare a correction with the labels that the raw dataset has now."""
    before = labels_of(correction.case, correction.scan, dataset.ignore)
    after = np.where(correction.stated, correction.values, before).astype(np.uint8)
    had, has = before != dataset.ignore, after != dataset.ignore
    across = tuple({0, 1, 2} - {correction.handed.axis})
    stated = correction.values[correction.stated]
    names = {0: BACKGROUND, **{entry.value: entry.name for entry in label_table(dataset.scheme)}}
    return Change(
        correction,
        after,
        tuple(int(index) for index in np.flatnonzero((correction.stated & has).any(axis=across))),
        int((has & ~had).sum()),
        int((has & had & (after != before)).sum()),
        int((had & ~has).sum()),
        {name: int((stated == value).sum()) for value, name in names.items() if (stated == value).any()},
    )


def add_changes(changes: Sequence[Change], record: Round, dataset: LabelledDataset) -> list[str]:
    """Write the labels of all changes into the raw dataset; a second time nothing is changed.

    Scans of imagesUn move to imagesTr once their label map is there. dataset.json declares ``ignore`` and counts the
    labelled scans, and folds of splits_final.json train on scans that are new. Returns what the user should know.
    """
    raw = dataset.raw
    _declare_ignore(raw, dataset.ignore)
    moved = []
    for change in changes:
        case = change.correction.case
        target = case.label or raw.folder / "labelsTr" / f"{case.name}{raw.description.file_ending}"
        if change.any:
            write_labels(target, change.labels, change.correction.scan, label_table(dataset.scheme))
        if case.label is None:
            moved.append(case.name)
        for path in case.channels:
            if path.parent.name == "imagesUn":
                (raw.folder / "imagesTr").mkdir(exist_ok=True)
                path.replace(raw.folder / "imagesTr" / path.name)
    _count_labelled(raw.folder)
    remarks = _train_on(raw, moved)
    slices = {change.correction.case.name: change.slices for change in changes}
    voxels = sum(int(change.correction.stated.sum()) for change in changes)
    added = AddedRound(record.identity, record.run, time.strftime("%Y-%m-%d"), slices, voxels)
    rounds = [one for one in dataset.history().rounds if one.identity != record.identity]
    write_json(replace(dataset.history(), rounds=(*rounds, added)), raw.folder / HISTORY_FILE)
    return remarks


def _declare_ignore(raw: RawDataset, value: int) -> None:
    if raw.scheme.ignore is None:
        labels = {**raw.description.labels, IGNORE: value}
        write_dataset(raw.folder, replace(raw.description, labels=labels), raw.ours)


def _count_labelled(folder: Path) -> None:
    raw = read_dataset(folder)
    count = sum(case.label is not None for case in raw.training().values())
    if raw.description.numTraining != count:
        write_dataset(folder, replace(raw.description, numTraining=count), raw.ours)


def _train_on(raw: RawDataset, names: Sequence[str]) -> list[str]:
    """Let the folds that somebody has fixed train on scans that had no labels; sentences on those that cannot."""
    path = raw.folder / _NNUNET_SPLITS_FILE
    if path.is_file() and names:
        folds = read_object(path)
        for fold in folds:
            known = {*fold["train"], *fold["val"]}
            fold["train"] = [*fold["train"], *(name for name in names if name not in known)]
        write_text(path, f"{json.dumps(folds, indent=2)}\n")
    published = raw.ours.published_split
    outside = [name for name in names if published and name not in (*published.train, *published.test)]
    return [f"{len(outside)} new scans are no part of the published split: fold official leaves them out"] * bool(
        outside
    )
