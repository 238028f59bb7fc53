"""LA: late-gadolinium MR of the left atrium, from the challenge's NRRD folders or from the mri_norm2.h5 files."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from dataset_conversion.array_files import read_arrays
from dataset_conversion.converter import Converter
from dataset_conversion.scans import LabelMap, Spacing, doubtful_spacings, load_files
from dataset_conversion.survey import (
    CaseSource,
    LoadedCase,
    Published,
    Survey,
    counted,
    find_once,
    is_listed,
    limit,
    shortened,
)
from samora_pipeline.contracts.dataset import PublishedSplit
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.volume import Volume, make_grid

_NRRD = "lgemri.nrrd"
_NRRD_LABEL = "laendo.nrrd"
_HDF5 = "mri_norm2.h5"
_LISTS = ("train.list", "test.list")
_SPACING = 0.625
_NRRD_LABELS = LabelMap({"left_atrium": (255,), "background": (0,)})
_HDF5_LABELS = LabelMap.numbered("left_atrium")


class LA(Converter):
    """Both layouts give the same labels on the same grid; the published split may be replaced by lists of one's own."""

    name = "LA"
    summary = "100 late-gadolinium MR scans of the left atrium, from the challenge's folders or UA-MT's HDF5 files."
    page = "https://www.cardiacatlas.org/atriaseg2018-challenge/atria-seg-data/"
    terms = "research; the terms of the challenge decide. The HDF5 copy (https://github.com/yulequan/UA-MT) states none"
    citation = (
        "Xiong et al., Medical Image Analysis 67:101832, 2021; for HDF5 files also Yu et al. (UA-MT), MICCAI 2019"
    )
    tree = (
        "FOLDER/\n"
        "  Training Set/ID/lgemri.nrrd               100 scans\n"
        "  Training Set/ID/laendo.nrrd               their label maps, 255 is the atrium\n"
        "  train.list, test.list                     optional: IDs, one in a line, instead of the published split\n"
        "or the HDF5 distribution:\n"
        "FOLDER/\n"
        "  2018LA_Seg_Training Set/ID/mri_norm2.h5   image, label\n"
        "  train.list, test.list"
    )
    home = 2
    channels = ("LGE",)
    label_maps = {_NRRD_LABEL: _NRRD_LABELS, _HDF5: _HDF5_LABELS}
    lists = "la"
    remarks = (
        "Published tables score scans cropped around the atrium (mri_norm2.h5); whole scans score differently.",
        "HDF5 files hold z-scores and no spacing: the challenge's 0.625 mm are written, and each volume is scaled by "
        "its own percentiles, which undoes the z-score.",
        "5pct is 4 of 80 scans, the first four of train.list (the paper writes 4/100); 5pct_slices is their "
        "slices with atrium, on which H-SAM trains.",
    )

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Find the scans by their file names and divide them by the lists."""
        scans, stored = (find_once(source, name, _folder) for name in (_NRRD, _HDF5))
        if not scans and not stored:
            raise self.missing_source(source, f"no {_NRRD} and no {_HDF5}")
        lists, replaced = _lists(source, self.published())
        cases = [_case(name, path, lists) for name, path in (scans or stored).items()]
        labelled = {case.name for case in cases if case.part != "Un"}
        here, missing = limit(lists, labelled)
        known, doubts = doubtful_spacings(scans, _plausible, f"not the {_SPACING} mm of the challenge")
        layout = _NRRD if scans else f"{_HDF5} (z-scores)"
        ours = here.samora_json(f"LA 2018 challenge, {layout}; lists: {here.origin}", known)
        notes = replaced + doubts + missing + _other_notes(scans, stored, labelled, here)
        return self.describe(cases, ours, notes)


def _folder(path: Path) -> str | None:
    """A case is called like the folder of its file; those of the challenge's own test set have no public labels."""
    return None if path.parent.parent.name == "Testing Set" else path.parent.name


def _case(name: str, path: Path, lists: Published) -> CaseSource:
    if path.name == _HDF5:
        return CaseSource(name, lists.part(name), partial(_load_hdf5, path))
    label = path.with_name(_NRRD_LABEL)
    if not is_listed(label):
        return CaseSource(name, "Un", partial(load_files, [path], None, _NRRD_LABELS))
    return CaseSource(name, lists.part(name), partial(load_files, [path], label, _NRRD_LABELS))


def _load_hdf5(path: Path) -> LoadedCase:
    """The arrays are [X, Y, Z] in the order of the NRRD files, whose axes grow to the left, to the back and upwards."""
    image, label = read_arrays(path, "image", "label")
    affine = np.diag([-_SPACING, -_SPACING, _SPACING, 1.0])
    labels = Volume(label, make_grid(label.shape, affine), path)
    return LoadedCase((Volume(image, make_grid(image.shape, affine), path),), _HDF5_LABELS.apply(labels))


def _lists(source: Path, published: Published) -> tuple[Published, tuple[str, ...]]:
    """The published lists, with the split of ``source``'s own lists where it has them.

    Raises:
        DataError: ``E-SRC-22`` when a scan stands in both lists.
    """
    if not all((source / name).is_file() for name in _LISTS):
        return published, ()
    train, test = (tuple((source / name).read_text(encoding="utf-8").split()) for name in _LISTS)
    if both := sorted(set(train) & set(test)):
        raise DataError("E-SRC-22", source=source, found=shortened(both))
    known = published.split
    if known and set(train) <= set(known.train) and set(test) <= set(known.test):
        return published, ()
    origin = f"train.list and test.list of the source; budgets of {published.origin}"
    note = (
        f"train.list and test.list ({len(train)}/{len(test)}) are not the published ones (80/20) and are used instead: "
        "scores on the fold official cannot be compared with published tables"
    )
    return replace(published, origin=origin, split=PublishedSplit(train, test)), (note,)


def _plausible(spacing: Spacing) -> bool:
    return all(abs(edge - _SPACING) < 0.01 * _SPACING for edge in spacing)


def _other_notes(
    scans: Mapping[str, Path], stored: Mapping[str, Path], labelled: set[str], here: Published
) -> tuple[str, ...]:
    notes = []
    if scans and stored:
        notes.append(f"{len(stored)} files {_HDF5} were left out: the NRRD files hold the original grey values")
    elif stored:
        notes.append(f"{_HDF5} holds z-scores and states no spacing: {_SPACING} mm is what the challenge states")
    listed = {*here.split.train, *here.split.test} if here.split else set()
    return (
        *notes,
        *counted(sorted(labelled - listed), "labelled scans stand in no list"),
        *counted(sorted(set(scans) - labelled), "scans have no label map and went to imagesUn"),
    )
