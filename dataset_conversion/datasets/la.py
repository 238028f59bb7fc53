"""LA: late-gadolinium MR of the left atrium, from the challenge's NRRD folders or from the mri_norm2.h5 files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_conversion.converter import CaseSource, Converter, LoadedCase, Part, Survey, register
from dataset_conversion.file_names import shortened
from dataset_conversion.label_map import LabelMap
from dataset_conversion.scan_pairs import load_pair
from samora_pipeline.errors import DataError

if TYPE_CHECKING:
    from dataset_conversion.headers import Spacing
    from dataset_conversion.published import Published

_NRRD = "lgemri.nrrd"
_NRRD_LABEL = "laendo.nrrd"
_HDF5 = "mri_norm2.h5"
_LISTS = ("train.list", "test.list")
_SPACING = 0.625
_NRRD_LABELS = LabelMap({"left_atrium": (255,), "background": (0,)})
_HDF5_LABELS = LabelMap.numbered("left_atrium")


@register
class LA(Converter):
    """Both layouts give the same labels on the same grid; the published split may be replaced by lists of one's own."""

    name = "LA"
    summary = "100 late-gadolinium MR scans of the left atrium, from the challenge's folders or UA-MT's HDF5 files."
    page = "https://www.cardiacatlas.org/atriaseg2018-challenge/atria-seg-data/"
    terms = "research; the terms of the challenge decide. The HDF5 copy (https://github.com/yulequan/UA-MT) states none"
    citation = (
        "Xiong et al., A global benchmark of algorithms for segmenting the left atrium from late gadolinium-enhanced "
        "cardiac magnetic resonance imaging, Medical Image Analysis 67:101832, 2021; for the HDF5 files also Yu et "
        "al., Uncertainty-aware Self-ensembling Model, MICCAI 2019"
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
    remarks = (
        "Published tables score scans cropped around the atrium (mri_norm2.h5); whole scans of the challenge score "
        "differently.",
        "HDF5 files hold z-scores and no spacing: the challenge's 0.625 mm are written, and each volume is scaled by "
        "its own percentiles, which undoes the z-score.",
        "5pct is 4 of 80 scans, the first four of train.list (the paper writes 4/100).",
    )

    def published(self) -> Published:
        """The 80/20 split and the four scans of 5pct."""
        from dataset_conversion.published import read_published

        return read_published("la")

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Find the scans by their file names and divide them by the lists."""
        from dataset_conversion.headers import doubtful_spacings, spacing_note
        from dataset_conversion.published import limit
        from samora_pipeline.contracts.dataset import DatasetJson, SamoraJson

        scans = _find(source, _NRRD)
        stored = _find(source, _HDF5)
        if not scans and not stored:
            raise self.missing_source(source, f"no {_NRRD} and no {_HDF5}")
        found = scans or stored
        lists, notes = _lists(source, self.published())
        test = frozenset(lists.split.test if lists.split else ())
        cases = tuple(_case(name, path, test) for name, path in found.items())
        labelled = {case.name for case in cases if case.part != "Un"}
        here, missing = limit(lists, labelled)
        doubtful = doubtful_spacings(scans, _plausible)
        if doubtful:
            usual = f"not the {_SPACING} mm of the challenge"
            notes += (spacing_note(doubtful, len(scans), usual),)
        notes += missing + _other_notes(scans, stored, labelled, here)
        return Survey(
            DatasetJson({"0": "LGE"}, _NRRD_LABELS.labels, len(cases), ".nii.gz", extra={"name": self.name}),
            SamoraJson(
                origin=f"LA 2018 challenge, {_NRRD if scans else f'{_HDF5} (z-scores)'}; lists: {here.origin}",
                citation=self.citation,
                terms=self.terms,
                spacing_known=not doubtful,
                published_split=here.split,
                budgets=here.budgets,
            ),
            cases,
            notes,
        )


def _find(source: Path, name: str) -> dict[str, Path]:
    """Files of that name by the folder they lie in, which is called like the case.

    Raises:
        DataError: ``E-SRC-21`` when a case is there twice.
    """
    found: dict[str, Path] = {}
    for path in sorted(source.rglob(name)):
        folder = path.parent
        if not path.is_file() or "__MACOSX" in path.parts or folder.parent.name == "Testing Set":
            continue
        if folder.name in found:
            raise DataError(
                "E-SRC-21",
                f"the scan {folder.name} is there twice",
                found=f"{found[folder.name].relative_to(source)} and {path.relative_to(source)}",
                expected="each scan once",
                fix="name the folder that holds one of them with -i",
            )
        found[folder.name] = path
    return dict(sorted(found.items()))


def _case(name: str, path: Path, test: frozenset[str]) -> CaseSource:
    if path.name == _HDF5:
        return CaseSource(name, "Ts" if name in test else "Tr", partial(_load_hdf5, path))
    label = path.with_name(_NRRD_LABEL)
    part: Part = "Ts" if name in test else "Tr"
    if not label.is_file():
        return CaseSource(name, "Un", partial(load_pair, path, None, _NRRD_LABELS))
    return CaseSource(name, part, partial(load_pair, path, label, _NRRD_LABELS))


def _load_hdf5(path: Path) -> LoadedCase:
    """The arrays are [X, Y, Z] in the order of the NRRD files, whose axes grow to the left, to the back and upwards."""
    import numpy as np

    from dataset_conversion.array_files import read_arrays
    from samora_pipeline.imaging.volume import Volume, make_grid

    image, label = read_arrays(path, "image", "label")
    affine = np.diag([-_SPACING, -_SPACING, _SPACING, 1.0])
    labels = Volume(label, make_grid(label.shape, affine), path)
    return LoadedCase((Volume(image, make_grid(image.shape, affine), path),), _HDF5_LABELS.apply(labels))


def _lists(source: Path, published: Published) -> tuple[Published, tuple[str, ...]]:
    """The published lists, with the split of ``source``'s own lists where it has them.

    Raises:
        DataError: ``E-SRC-22`` when a scan stands in both lists.
    """
    from dataclasses import replace

    from samora_pipeline.contracts.dataset import PublishedSplit

    if not all((source / name).is_file() for name in _LISTS):
        return published, ()
    train, test = (tuple((source / name).read_text(encoding="utf-8").split()) for name in _LISTS)
    if both := sorted(set(train) & set(test)):
        raise DataError(
            "E-SRC-22",
            "scans stand in train.list and in test.list",
            found=shortened(both),
            expected="each scan in one of them",
            fix=f"correct the lists in {source}, or remove them to use the published ones",
        )
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
    if alone := sorted(labelled - listed):
        notes.append(f"{len(alone)} labelled scans stand in no list: {shortened(alone)}")
    if bare := sorted(set(scans) - labelled) if scans else []:
        notes.append(f"{len(bare)} scans have no label map and went to imagesUn: {shortened(bare)}")
    return tuple(notes)
