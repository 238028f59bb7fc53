"""The cases of a raw dataset as planning sees them: which subset each belongs to, and which cannot be used at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from samora_pipeline.contracts.dataset import ImageFolder, RawCase, RawDataset
from samora_pipeline.contracts.fingerprint import Subset
from samora_pipeline.errors import DataError

FOLDERS: dict[ImageFolder, Subset] = {"imagesTr": "train", "imagesTs": "test", "imagesUn": "unlabelled"}


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
        if not case.isprintable() or (case.endswith("_label") and case.removesuffix("_label") in sources):
            faults.setdefault(case, []).append(DataError("E-CASE-02", case=case, found=repr(case)))
    return [source for case, source in sources.items() if case not in faults], faults


def missing_images(dataset: RawDataset, sources: Sequence[CaseSource]) -> list[str]:
    """Names of label files in labelsTr that have no image in imagesTr."""
    ending = dataset.description.file_ending
    named = {source.name for source in sources}
    labels = sorted((dataset.folder / "labelsTr").glob(f"*{ending}"))
    return [
        path.name for path in labels if not path.name.startswith(".") and path.name.removesuffix(ending) not in named
    ]
