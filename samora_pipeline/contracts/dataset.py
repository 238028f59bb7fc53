"""The raw dataset on disk: nnU-Net's dataset.json, our samora.json beside it, and the cases they describe.

``DatasetNNN_Name/{dataset.json, samora.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, imagesTs, labelsTs,
imagesUn}``. The folder stays a valid nnU-Net raw dataset.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from samora_pipeline.contracts.json_io import parse, read_json, read_object, to_plain, write_json
from samora_pipeline.contracts.labels import BACKGROUND, LabelScheme, label_scheme
from samora_pipeline.errors import DataError
from samora_pipeline.files import write_text

_NIFTI = (".nii.gz", ".nii")
_OTHER_ENDINGS = (*_NIFTI, ".nrrd", ".seg.nrrd", ".mha")
"""label files that somebody forgot to convert"""
BudgetUnit = Literal["cases", "slices"]
ImageFolder = Literal["imagesTr", "imagesTs", "imagesUn"]

_LABELS: dict[ImageFolder, str | None] = {"imagesTr": "labelsTr", "imagesTs": "labelsTs", "imagesUn": None}
# DOTALL, so that a line break in a name is found to be one instead of hiding the channel number.
CHANNEL_NAME = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$", re.DOTALL)
"""A file name without its ending: the case and the four digits of the channel."""


@dataclass(frozen=True)
class DatasetJson:
    """dataset.json as nnU-Net defines it; ``extra`` keeps all keys that this tool does not use."""

    channel_names: dict[str, str]
    labels: dict[str, int | tuple[int, ...]]
    numTraining: int  # noqa: N815 - nnU-Net's key
    file_ending: str
    regions_class_order: tuple[int, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def scheme(self) -> LabelScheme:
        """The label scheme; raises DataError when the declaration contradicts itself."""
        return label_scheme(self.labels, self.regions_class_order)


@dataclass(frozen=True)
class PublishedSplit:
    """A train/test split that a dataset's community uses; becomes the fold ``official``."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class PublishedBudget:
    """A published list of labelled cases or slices, such as the 221 slices of Synapse's ``10pct``.

    ``slices`` are indices along the raw through-plane axis; with unit ``cases`` it is empty.
    """

    unit: BudgetUnit
    cases: tuple[str, ...]
    slices: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SamoraJson:
    """samora.json: what nnU-Net's file has no place for.

    ``patients`` maps a case to its patient where they differ. ``window`` is the published intensity window in HU.
    ``mirror`` pins the augmentation where a published recipe fixes it (None: the planner decides).
    """

    schema_version: int = 1
    origin: str = ""
    citation: str = ""
    terms: str = ""
    phantom: bool = False
    spacing_known: bool = True
    budget_unit: BudgetUnit = "cases"
    patients: dict[str, str] = field(default_factory=dict)
    published_split: PublishedSplit | None = None
    budgets: dict[str, PublishedBudget] = field(default_factory=dict)
    window: tuple[float, float] | None = None
    mirror: bool | None = None


@dataclass(frozen=True)
class RawCase:
    """One case: its channels in order and its label file, if it has one."""

    name: str
    channels: tuple[Path, ...]
    label: Path | None


@dataclass(frozen=True)
class RawDataset:
    """A raw dataset folder that was read; cases are found when asked for."""

    folder: Path
    description: DatasetJson
    ours: SamoraJson

    @property
    def scheme(self) -> LabelScheme:
        """The label scheme of dataset.json."""
        return self.description.scheme

    def training(self) -> dict[str, RawCase]:
        """Cases of imagesTr; those without a label file have ``label`` None."""
        return _sound(self.scan("imagesTr"))

    def test(self) -> dict[str, RawCase]:
        """Cases of imagesTs, with labels where labelsTs has them."""
        return _sound(self.scan("imagesTs"))

    def unlabelled(self) -> dict[str, RawCase]:
        """Cases of imagesUn."""
        return _sound(self.scan("imagesUn"))

    def patient(self, case: str) -> str:
        """The patient a case belongs to (the case itself unless samora.json says otherwise)."""
        return self.ours.patients.get(case, case)

    def scan(self, images: ImageFolder) -> tuple[dict[str, RawCase], dict[str, DataError]]:
        """List the cases of one image folder, and the error of each case (or file) that cannot be used.

        ``E-CHAN-01`` wrong number of channels, ``E-CHAN-02`` a file without channel number, ``E-LABEL-14`` a label
        file of another ending.
        """
        ending = self.description.file_ending
        channels: dict[str, dict[int, Path]] = {}
        faults: dict[str, DataError] = {}
        folder = self.folder / images
        for path in sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []:
            if path.name.startswith("."):
                continue
            stem = path.name.removesuffix(ending)
            if match := CHANNEL_NAME.match(stem):
                channels.setdefault(match["case"], {})[int(match["channel"])] = path
            else:
                faults[stem] = DataError("E-CHAN-02", ending=ending, stem=stem, found=str(path))
        cases = {}
        for case, by_number in channels.items():
            try:
                cases[case] = self._case(case, by_number, _LABELS[images])
            except DataError as error:
                faults[case] = error
        return cases, faults

    def _case(self, case: str, by_number: dict[int, Path], labels: str | None) -> RawCase:
        expected = len(self.description.channel_names)
        if sorted(by_number) != list(range(expected)):
            names = ", ".join(self.description.channel_names.values())
            found = ", ".join(path.name for path in by_number.values())
            raise DataError("E-CHAN-01", case=case, number=expected, names=names, found=found)
        label = self._label(case, self.folder / labels) if labels else None
        return RawCase(case, tuple(by_number[i] for i in range(expected)), label)

    def _label(self, case: str, folder: Path) -> Path | None:
        """The label file of a case; a link counts wherever it leads, so that one that leads nowhere is found out.

        Raises:
            DataError: ``E-LABEL-14`` it is there with another ending.
        """
        ending = self.description.file_ending
        label = folder / f"{case}{ending}"
        if label.is_file() or label.is_symlink():
            return label
        for other in _OTHER_ENDINGS:
            if (path := folder / f"{case}{other}").is_file():
                raise DataError("E-LABEL-14", case=case, ending=ending, found=str(path))
        return None


def _sound(scanned: tuple[dict[str, RawCase], dict[str, DataError]]) -> dict[str, RawCase]:
    cases, faults = scanned
    for error in faults.values():
        raise error
    return cases


def read_dataset(folder: Path) -> RawDataset:
    """Read dataset.json and, where it exists, samora.json.

    Raises:
        DataError: ``E-DATA-01`` without dataset.json, ``E-JSON-..`` for a broken one.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        raise DataError("E-DATA-01", folder=folder, found=f"no file {path}")
    return RawDataset(folder, read_dataset_json(path), read_samora_json(folder))


def read_samora_json(folder: Path) -> SamoraJson:
    """Read samora.json of a raw dataset; without the file nothing is known beside dataset.json."""
    path = folder / "samora.json"
    # A link to nowhere, or a folder in its place, is not the same as knowing nothing.
    return read_json(SamoraJson, path) if path.exists() or path.is_symlink() else SamoraJson()


def read_dataset_json(path: Path) -> DatasetJson:
    """Read nnU-Net's dataset.json, keeping its unknown keys, or an older one (``as_nnunet_v2``)."""
    plain = read_object(path)
    if not isinstance(plain, dict):
        raise DataError("E-JSON-03", where=path, found=type(plain).__name__, expected="an object")
    plain = as_nnunet_v2(plain)
    known = {"channel_names", "labels", "numTraining", "file_ending", "regions_class_order"}
    fields = {key: value for key, value in plain.items() if key in known}
    extra = {key: value for key, value in plain.items() if key not in known}
    description: DatasetJson = parse(DatasetJson, {**fields, "extra": extra}, str(path))
    if sorted(description.channel_names) != sorted(str(i) for i in range(len(description.channel_names))):
        found = ", ".join(description.channel_names)
        raise DataError("E-JSON-03", where=f"{path}.channel_names", found=found, expected='"0", "1", ...')
    _ = description.scheme
    return description


def as_nnunet_v2(plain: dict[str, Any]) -> dict[str, Any]:
    """A dataset.json of the Medical Segmentation Decathlon or of nnU-Net v1 with the keys of nnU-Net v2.

    ``modality`` names the channels; labels are listed or named by their values; the files are listed, of which only
    the number and the ending are taken. ``file_ending`` gets its dot. Everything else is kept.
    """
    modern = dict(plain)
    channels = plain.get("channel_names", plain.get("modality"))
    if channels is not None:
        modern["channel_names"] = _numbered(channels)
    labels = _numbered(plain.get("labels"))
    if isinstance(labels, dict) and labels and all(_is_value_to_name(*pair) for pair in labels.items()):
        modern["labels"] = {BACKGROUND if int(value) == 0 else name: int(value) for value, name in labels.items()}
    listed = plain.get("training")
    files = [listed_image(entry) for entry in listed] if isinstance(listed, list) else []
    if files and all(files):
        modern.setdefault("numTraining", len(files))
        modern.setdefault("file_ending", next((end for end in _NIFTI if files[0].endswith(end)), Path(files[0]).suffix))
    ending = modern.get("file_ending")
    if isinstance(ending, str) and ending and not ending.startswith("."):
        modern["file_ending"] = f".{ending}"
    return modern


def listed_image(entry: Any) -> str:
    """The image of an entry of the lists ``training`` and ``test``: a path, or an object with one; else empty."""
    name = entry.get("image") if isinstance(entry, dict) else entry
    return name if isinstance(name, str) else ""


def _numbered(listed: Any) -> Any:
    """A list as an object with the positions as keys; anything else as it is."""
    return {str(place): one for place, one in enumerate(listed)} if isinstance(listed, list) else listed


def _is_value_to_name(value: str, name: Any) -> bool:
    return value.isdigit() and isinstance(name, str)


def write_dataset(folder: Path, description: DatasetJson, ours: SamoraJson) -> None:
    """Write dataset.json (nnU-Net's keys first, the unknown ones behind) and samora.json."""
    plain = to_plain(description)
    extra = plain.pop("extra")
    if plain["regions_class_order"] is None:
        plain.pop("regions_class_order")
    write_text(folder / "dataset.json", json.dumps({**plain, **extra}, indent=2, ensure_ascii=False) + "\n")
    write_json(ours, folder / "samora.json")
