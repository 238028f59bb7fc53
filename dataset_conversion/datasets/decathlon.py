"""The ten tasks of the Medical Segmentation Decathlon, in the layout in which they are distributed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dataset_conversion.converter import CaseSource, Converter, Identity, LoadedCase, Survey, register
from dataset_conversion.decathlon_tasks import LITS_TASK, TASKS, compare
from dataset_conversion.file_names import list_files, listed_path, stem
from samora_pipeline.errors import DataError

_TASK = re.compile(r"^Task(\d\d)_([A-Za-z0-9]+)$")
_ENDINGS = (".nii.gz", ".nii")
# Only the names that differ from those nnU-Net's users write; all others are kept.
_CHANNEL_NAMES = {"ct": "CT", "mri": "MRI", "mr": "MRI"}


LITS_REMARK = (
    "Task03_Liver holds the scans and labels of LiTS (liver 1, tumour 2): never use both, nor one as test of the other."
)


@dataclass(frozen=True)
class ListedPair:
    """One entry of the ``training`` list."""

    image: str
    label: str


@dataclass(frozen=True)
class NativeJson:
    """What this converter reads of a task's dataset.json; ``labels`` and ``modality`` are keyed by number."""

    modality: dict[int, str]
    labels: dict[int, str]
    training: tuple[ListedPair, ...]
    test: tuple[str, ...] = ()
    name: str = ""
    licence: str = ""
    reference: str = ""


@register
class Decathlon(Converter):
    """Any TaskNN_Name; case names are kept, channels of 4-D volumes become files of their own."""

    name = "Decathlon"
    summary = "One task of the Medical Segmentation Decathlon, as it is distributed."
    numbering = "its home id is 10 + NN"
    page = "http://medicaldecathlon.com"
    terms = "CC BY-SA 4.0"
    citation = "Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13:4128, 2022"
    tree = (
        "TaskNN_Name/            -d TaskNN_Name, or -d Decathlon -i FOLDER\n"
        "  dataset.json          name, modality, labels, training, test\n"
        "  imagesTr/CASE.nii.gz\n"
        "  labelsTr/CASE.nii.gz\n"
        "  imagesTs/CASE.nii.gz"
    )
    remarks = (
        "Channels and labels are those of the task's dataset.json; these are distributed:",
        *(
            f"Task{number:02d}_{task.name}: {', '.join(task.channels)}; {', '.join(task.labels)}; "
            f"{task.training} training and {task.test} test cases"
            for number, task in TASKS.items()
        ),
        LITS_REMARK,
    )

    def claims(self, token: str) -> bool:
        """TaskNN_Name is a task of the decathlon."""
        return _TASK.match(token) is not None

    def identify(self, token: str, source: Path, options: argparse.Namespace) -> Identity:
        """Task NN has its home at 10 + NN."""
        match = _TASK.match(token) or _TASK.match(self._task_folder(source, token).resolve().name)
        if match:
            return Identity(match[2], 10 + int(match[1]))
        return Identity(re.sub(r"\W", "", self._native(source).name) or self.name)

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Read the task's dataset.json; its lists say which cases there are."""
        from samora_pipeline.contracts.dataset import DatasetJson, SamoraJson

        folder = self._task_folder(source)
        native = self._native(source)
        cases = [self._training_case(folder, pair) for pair in native.training if not _is_ghost(pair.image)]
        cases += [self._test_case(folder, name) for name in native.test if not _is_ghost(name)]
        about = {"name": native.name, "reference": native.reference, "licence": native.licence}
        description = DatasetJson(
            channel_names={
                str(number): _CHANNEL_NAMES.get(name.lower(), name) for number, name in sorted(native.modality.items())
            },
            labels={"background" if value == 0 else name: value for value, name in sorted(native.labels.items())},
            numTraining=len(native.training),
            file_ending=".nii.gz",
            extra={key: value for key, value in about.items() if value},
        )
        ours = SamoraJson(
            origin=f"Medical Segmentation Decathlon, {folder.resolve().name}",
            citation=self.citation,
            terms=native.licence or self.terms,
        )
        notes = (*_compared(folder, native, cases), *self._unlisted(folder, native))
        return Survey(description, ours, tuple(cases), notes)

    def _training_case(self, folder: Path, pair: ListedPair) -> CaseSource:
        image, label = listed_path(folder, pair.image), listed_path(folder, pair.label)
        return CaseSource(stem(image, _ENDINGS), "Tr", partial(_load, image, label))

    def _test_case(self, folder: Path, name: str) -> CaseSource:
        image = listed_path(folder, name)
        return CaseSource(stem(image, _ENDINGS), "Ts", partial(_load, image, None))

    def _task_folder(self, source: Path, token: str = "") -> Path:
        """The folder with dataset.json: ``source`` itself, or the only task folder in it."""
        if (source / "dataset.json").is_file() or not source.is_dir():
            return source
        inner = [path for path in sorted(source.iterdir()) if _TASK.match(path.name) and path.is_dir()]
        named = [path for path in inner if path.name == token] or inner
        return named[0] if len(named) == 1 else source

    def _native(self, source: Path) -> NativeJson:
        from samora_pipeline.contracts.json_io import parse, read_object

        path = self._task_folder(source) / "dataset.json"
        if not path.is_file():
            raise self.missing_source(source, f"no file {path}" if source.is_dir() else f"no folder {source}")
        plain = read_object(path)
        if not isinstance(plain, dict):
            raise DataError("E-JSON-03", f"{path} is not as expected", found=type(plain).__name__, expected="an object")
        known = {key: plain[key] for key in NativeJson.__dataclass_fields__ if key in plain}
        native: NativeJson = parse(NativeJson, known, str(path))
        return native

    def _unlisted(self, folder: Path, native: NativeJson) -> tuple[str, ...]:
        listed = {Path(pair.image).name for pair in native.training}
        unlisted = [path.name for path in list_files(folder / "imagesTr", _ENDINGS) if path.name not in listed]
        shown = ", ".join(unlisted[:5]) + (", ..." if len(unlisted) > 5 else "")
        return (
            (f"{len(unlisted)} files of imagesTr are not in dataset.json and were left out: {shown}",)
            if unlisted
            else ()
        )


def _compared(folder: Path, native: NativeJson, cases: Sequence[CaseSource]) -> list[str]:
    match = _TASK.match(folder.resolve().name)
    number = int(match[1]) if match else 0
    if match is None or number not in TASKS or TASKS[number].name != match[2]:
        return []
    channels = tuple(name for _, name in sorted(native.modality.items()))
    labels = tuple(name for value, name in sorted(native.labels.items()) if value)
    counts = [sum(case.part == part for case in cases) for part in ("Tr", "Ts")]
    return [*compare(number, channels, labels, counts[0], counts[1]), *([LITS_REMARK] if number == LITS_TASK else [])]


def _is_ghost(name: str) -> bool:
    """Archives made on macOS hold a ``._`` twin of each file."""
    return Path(name).name.startswith("._")


def _load(image: Path, label: Path | None) -> LoadedCase:
    from dataset_conversion.scan_files import is_plain_nifti, read_scan, split_channels

    scan = read_scan(image)
    labels = read_scan(label) if label else None
    unchanged = frozenset(volume.path for volume in (scan, labels) if volume and is_plain_nifti(volume))
    return LoadedCase(split_channels(scan), labels, unchanged)
