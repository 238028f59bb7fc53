"""The raw cases of a dataset: their subsets, what must be true of each before anything is planned, and all faults.

By default any fault stops the command before it writes: a dataset with a known fault is repaired, or its faulty cases
are skipped on request (``--skip-invalid``).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.dataset import ImageFolder, RawCase, RawDataset
from samora_pipeline.contracts.failures import printable
from samora_pipeline.contracts.fingerprint import Fingerprint, Subset
from samora_pipeline.contracts.integrity import Fault, IntegrityReport, Remark
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.leakage import copies
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.inputs import fault_of_name
from samora_pipeline.imaging.volume import Volume, label_array, on_grid_of, require_finite
from samora_pipeline.registry import shortened

FOLDERS: dict[ImageFolder, Subset] = {"imagesTr": "train", "imagesTs": "test", "imagesUn": "unlabelled"}


_BLOCK = 1 << 20


@dataclass(frozen=True)
class CaseSource:
    """One raw case and its subset. A case of imagesTr without a label file counts as unlabelled."""

    raw: RawCase
    subset: Subset

    @property
    def name(self) -> str:
        """The name of the case."""
        return self.raw.name

    @property
    def bytes_on_disk(self) -> int:
        """Size of its files."""
        files = [*self.raw.channels, *([self.raw.label] if self.raw.label else [])]
        return sum(path.stat().st_size for path in files if path.is_file())


def list_cases(dataset: RawDataset) -> tuple[list[CaseSource], dict[str, list[DataError]]]:
    """Return all usable cases in the order train, test, unlabelled, and the errors of the others by case.

    ``E-CASE-01`` a name in two folders, ``E-CASE-02`` a name that cannot be stored, ``E-CHAN-01``, ``E-CHAN-02``.
    """
    sources: dict[str, CaseSource] = {}
    folder_of: dict[str, ImageFolder] = {}
    faults: dict[str, list[DataError]] = {}
    for folder, subset in FOLDERS.items():
        cases, unusable = dataset.scan(folder)
        for case, error in unusable.items():
            faults.setdefault(case, []).append(error)
        for case, raw in cases.items():
            if case in folder_of:
                faults.setdefault(case, []).append(
                    DataError("E-CASE-01", case=case, found=f"{folder_of[case]} and {folder}")
                )
                continue
            folder_of[case] = folder
            sources[case] = CaseSource(raw, "unlabelled" if raw.label is None and subset == "train" else subset)
    for case in sources:
        fault = fault_of_name(case)
        if case.endswith("_label") and case.removesuffix("_label") in sources:
            fault = DataError("E-CASE-02", case=case, found=repr(case))
        if fault is not None:
            faults.setdefault(case, []).append(fault)
    return [source for case, source in sources.items() if case not in faults], faults


def missing_images(dataset: RawDataset, sources: Sequence[CaseSource]) -> list[str]:
    """Names of label files in labelsTr that have no image in imagesTr."""
    ending = dataset.description.file_ending
    named = {source.name for source in sources}
    labels = sorted((dataset.folder / "labelsTr").glob(f"*{ending}"))
    return [
        path.name for path in labels if not path.name.startswith(".") and path.name.removesuffix(ending) not in named
    ]


@dataclass
class Inspection:
    """One case as read and checked: channels and labels where they could be read, faults, remarks.

    ``label_counts`` [256] are voxels per label value.
    """

    volumes: list[Volume] = field(default_factory=list)
    labels: npt.NDArray[np.uint8] | None = None
    label_counts: npt.NDArray[np.int64] | None = None
    faults: list[DataError] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Within the context a fault is noted instead of raised."""
        try:
            yield
        except DataError as error:
            self.faults.append(error)


def inspect_case(source: CaseSource, scheme: LabelScheme) -> Inspection:
    """Read a case and apply every check; all its faults are collected, not only the first."""
    found = Inspection()
    for path in source.raw.channels:
        with found.collecting():
            volume = _checked_channel(path)
            found.volumes.append(volume)
            if volume.array.min() == volume.array.max():
                found.remarks.append(Remark(source.name, "W-IMG-01", f"{path.name}: all voxels have the same value"))
            found.remarks += _header_remarks(source, volume)
    for place, other in enumerate(found.volumes[1:], start=1):
        with found.collecting():
            found.volumes[place] = on_grid_of(found.volumes[0], other)
    if source.raw.label is not None:
        _inspect_labels(source, source.raw.label, scheme, found)
    return found


def _checked_channel(path: Path) -> Volume:
    volume = read_volume(path)
    if volume.array.ndim != 3:
        shape = " x ".join(str(size) for size in volume.array.shape)
        raise DataError("E-CHAN-06", volume=volume, found=f"shape {shape} in {volume.path}")
    require_finite(volume)
    return volume


def _inspect_labels(source: CaseSource, path: Path, scheme: LabelScheme, found: Inspection) -> None:
    scaled = ""
    try:
        volume = read_volume(path)
        scaled = _scaling(volume)
        labels = label_array(volume)
    except DataError as error:
        shown = "; ".join(part for part in (error.found, scaled) if part)
        found.faults.append(DataError(error.code, error.what, found=shown, expected=error.expected, fix=error.fix))
        return
    found.remarks += _header_remarks(source, volume)
    if scaled:
        found.remarks.append(Remark(source.name, "W-LABEL-02", f"{path.name}: {scaled}; the scaled values are used"))
    if found.volumes:
        with found.collecting():
            labels = label_array(on_grid_of(found.volumes[0], volume))
    counts = count_labels(labels)
    undeclared = [int(value) for value in np.flatnonzero(counts) if value not in scheme.values]
    if undeclared:
        found.faults.append(
            DataError(
                "E-LABEL-09",
                what=f"{path.name} has label values that dataset.json does not declare",
                found=f"{', '.join(f'{value} ({counts[value]} voxels)' for value in undeclared)} in {path}",
                expected=", ".join(str(value) for value in sorted(scheme.values)),
                fix="declare them in dataset.json, or map them to declared ones when converting",
            )
        )
    elif not counts[[value for values in scheme.names.values() for value in values]].any():
        found.remarks.append(Remark(source.name, "W-LABEL-01", "its label map holds no foreground"))
    found.labels, found.label_counts = labels, counts


def _header_remarks(source: CaseSource, volume: Volume) -> list[Remark]:
    return [Remark(source.name, "W-GEO-01", f"{volume.path.name}: {warning}") for warning in volume.warnings]


def _scaling(volume: Volume) -> str:
    """A sentence when a NIfTI header scales the stored values, else nothing."""
    if not hasattr(volume.header, "get_slope_inter"):
        return ""
    slope, intercept = volume.header.get_slope_inter()
    if slope in (None, 1.0) and intercept in (None, 0.0):
        return ""
    return f"its header scales the labels (scl_slope {slope:g}, scl_inter {intercept:g})"


def count_labels(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Voxels per label value, as an array of 256."""
    flat = labels.ravel("K")
    counts = np.zeros(256, dtype=np.int64)
    # In blocks, because bincount first makes a copy of its input as 64-bit integers.
    for start in range(0, flat.size, _BLOCK):
        counts += np.bincount(flat[start : start + _BLOCK], minlength=256)
    return counts


def require_sound(dataset: str, faults: Mapping[str, Sequence[DataError]], total: int, report: Path) -> None:
    """Refuse a dataset with faulty cases; ``report`` is the file that lists them.

    Raises:
        DataError: the fault itself when there is only one, else ``E-DATA-02`` with a table of all of them.
    """
    every = [error for errors in faults.values() for error in errors]
    if not every:
        return
    option = f"or skip the case: samora_plan_and_preprocess -d {dataset} --skip-invalid"
    if len(every) == 1:
        error = every[0]
        fix = ", ".join(part for part in (error.fix, option) if part)
        raise DataError(error.code, error.what, found=error.found, expected=error.expected, fix=fix)
    raise DataError(
        "E-DATA-02",
        number=len(faults),
        total=total,
        dataset=dataset,
        number2=len(every),
        report=report,
        option=option,
        found="\n" + fault_table(faults),
    )


def integrity_report(
    dataset: str, total: int, skipped: bool, faults: Mapping[str, Sequence[DataError]], remarks: Sequence[Remark]
) -> IntegrityReport:
    """All findings as they are written to integrity.json."""
    return IntegrityReport(
        dataset,
        total,
        skipped and bool(faults),
        tuple(Fault(printable(case), **error.texts) for case, errors in faults.items() for error in errors),
        tuple(remarks),
    )


def fault_table(faults: Mapping[str, Sequence[DataError]]) -> str:
    """The first faults as text, a line each: case, code, sentence, found and expected; the report has all."""
    shown = {case: printable(case) for case in faults}
    width = max(len(name) for name in shown.values())
    lines = [
        f"    {shown[case]:<{width}}  {error.code:<10}  {error.what}: {error.found}; expected {error.expected}"
        for case, errors in faults.items()
        for error in errors
    ]
    return shortened(lines, "\n")


def dataset_remarks(
    fingerprint: Fingerprint, channel_names: Sequence[str], scheme: LabelScheme, stated: int, orphans: Sequence[str]
) -> list[Remark]:
    """Doubts about a dataset as a whole, from its fingerprint."""
    cases = fingerprint.cases
    training = [case for case in cases.values() if case.subset == "train"]
    listed = sum(case.subset != "test" for case in cases.values()) + len(fingerprint.skipped)
    remarks: list[Remark] = []
    if not len(training) <= stated <= listed:
        text = f"dataset.json states {stated} training cases; {len(training)} labelled ones are here"
        remarks.append(Remark("", "W-COUNT-01", text))
    if orphans:
        remarks.append(Remark("", "W-LABEL-04", f"{len(orphans)} label files have no image: {shortened(orphans)}"))
    remarks += [Remark("", "W-HU-01", text) for text in _not_hounsfield(fingerprint, channel_names)]
    for name in scheme.names:
        if training and not any(case.label_voxels.get(name) for case in training):
            remarks.append(Remark("", "W-LABEL-03", f'"{name}" occurs in no label map of the training cases'))
    for names in copies(cases):
        # Whatever the files are called or look like.
        shown = ", ".join(f"{name} ({cases[name].subset})" for name in names)
        text = f"the same scan under {len(names)} names: {shown}"
        remarks.append(Remark("", "W-COPY-01", text))
    return remarks


def _not_hounsfield(fingerprint: Fingerprint, channel_names: Sequence[str]) -> list[str]:
    texts = []
    cases = fingerprint.cases.values()
    for index, name in enumerate(channel_names):
        doubtful = [case.volume[index] for case in cases if case.volume[index].minimum >= -1.0]
        if name.strip().lower() == "ct" and doubtful:
            low, high = min(stats.minimum for stats in doubtful), max(stats.maximum for stats in doubtful)
            texts.append(
                f'channel {index} "{name}" does not look like Hounsfield units in {len(doubtful)} of {len(cases)} '
                f"cases: values from {low:g} to {high:g} (air is -1000)"
            )
    return texts
