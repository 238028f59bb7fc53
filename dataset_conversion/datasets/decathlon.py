"""The ten tasks of the Medical Segmentation Decathlon, in the layout in which they are distributed.

``TASKS`` is what a copy is compared with: channels and labels as spelled in each task's dataset.json, and the numbers
of cases of its lists. Antonelli et al., Table 1 counts a few cases more.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dataset_conversion.converter import Converter
from dataset_conversion.scans import load_files
from dataset_conversion.survey import CaseSource, Identity, Part, Survey, counted, list_files, listed_path, stem
from samora_pipeline.contracts.dataset import SamoraJson, listed_image
from samora_pipeline.contracts.json_io import parse, read_object

_TASK = re.compile(r"Task(\d\d)_([A-Za-z0-9]+)")
_ENDINGS = (".nii.gz", ".nii")
# Only the names that differ from those nnU-Net's users write; all others are kept.
_CHANNEL_NAMES = {"ct": "CT", "mri": "MRI", "mr": "MRI"}

LITS_TASK = 3
LITS_REMARK = (
    "Task03_Liver holds the scans and labels of LiTS (liver 1, tumour 2): never use both, nor one as test of the other."
)


@dataclass(frozen=True)
class Task:
    """One task: its name, channels and labels in order, and its numbers of training and test cases."""

    name: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    training: int
    test: int


_TUMOUR_PARTS = ("edema", "non-enhancing tumor", "enhancing tumour")
TASKS: dict[int, Task] = {
    1: Task("BrainTumour", ("FLAIR", "T1w", "t1gd", "T2w"), _TUMOUR_PARTS, 484, 266),
    2: Task("Heart", ("MRI",), ("left atrium",), 20, 10),
    3: Task("Liver", ("CT",), ("liver", "cancer"), 131, 70),
    4: Task("Hippocampus", ("MRI",), ("Anterior", "Posterior"), 260, 130),
    5: Task("Prostate", ("T2", "ADC"), ("PZ", "TZ"), 32, 16),
    6: Task("Lung", ("CT",), ("cancer",), 63, 32),
    7: Task("Pancreas", ("CT",), ("pancreas", "cancer"), 281, 139),
    8: Task("HepaticVessel", ("CT",), ("Vessel", "Tumour"), 303, 140),
    9: Task("Spleen", ("CT",), ("spleen",), 41, 20),
    10: Task("Colon", ("CT",), ("colon cancer primaries",), 126, 64),
}


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

    def identify(self, token: str, source: Path, options: argparse.Namespace) -> Identity:
        """Task NN has its home at 10 + NN."""
        match = _TASK.fullmatch(token) or _TASK.fullmatch(_task_folder(source, token).resolve().name)
        if match:
            return Identity(match[2], 10 + int(match[1]))
        return Identity(re.sub(r"\W", "", self._native(source).name) or self.name)

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Read the task's dataset.json; its lists say which cases there are."""
        folder, native = _task_folder(source), self._native(source)
        cases = [_case(folder, "Tr", pair.image, pair.label) for pair in native.training if not _is_ghost(pair.image)]
        cases += [_case(folder, "Ts", name) for name in native.test if not _is_ghost(name)]
        listed = {Path(pair.image).name for pair in native.training}
        unlisted = [path.name for path in list_files(folder / "imagesTr", _ENDINGS) if path.name not in listed]
        survey = self.describe(
            cases,
            SamoraJson(origin=f"Medical Segmentation Decathlon, {folder.resolve().name}", terms=native.licence),
            channels=tuple(_CHANNEL_NAMES.get(name.lower(), name) for _, name in sorted(native.modality.items())),
            labels={"background" if value == 0 else name: value for value, name in sorted(native.labels.items())},
            about={"name": native.name, "reference": native.reference, "licence": native.licence},
        )
        notes = (
            *_differences(folder.resolve().name, native, survey),
            *counted(unlisted, "files of imagesTr are not in dataset.json and were left out", 5),
        )
        return replace(survey, notes=notes)

    def _native(self, source: Path) -> NativeJson:
        path = _task_folder(source) / "dataset.json"
        if not path.is_file():
            raise self.missing_source(source, f"no file {path}" if source.is_dir() else f"no folder {source}")
        plain = read_object(path)
        if isinstance(plain, dict):
            plain = _usual_form(plain)
        return parse(NativeJson, plain, str(path))


def _usual_form(plain: dict[str, Any]) -> dict[str, Any]:
    """Lists of channels and labels as objects with numbers, and listed files with their labels, as in most tasks."""
    native = {key: plain[key] for key in NativeJson.__dataclass_fields__ if key in plain}
    for key in ("modality", "labels"):
        if isinstance(native.get(key), list):
            native[key] = {str(place): name for place, name in enumerate(native[key])}
    if isinstance(native.get("training"), list):
        native["training"] = [_pair(one) for one in native["training"]]
    if isinstance(native.get("test"), list):
        native["test"] = [listed_image(one) or one for one in native["test"]]
    return native


def _pair(entry: Any) -> Any:
    """An image alone has its label under the same name in labelsTr."""
    if not isinstance(entry, str):
        return entry
    return {"image": entry, "label": f"labelsTr/{Path(entry).name}"}


def _task_folder(source: Path, token: str = "") -> Path:
    """The folder with dataset.json: ``source`` itself, or the only task folder in it."""
    if (source / "dataset.json").is_file() or not source.is_dir():
        return source
    inner = [path for path in sorted(source.iterdir()) if _TASK.fullmatch(path.name) and path.is_dir()]
    named = [path for path in inner if path.name == token] or inner
    return named[0] if len(named) == 1 else source


def _case(folder: Path, part: Part, image: str, label: str = "") -> CaseSource:
    path = listed_path(folder, image)
    load = partial(load_files, [path], listed_path(folder, label) if label else None)
    return CaseSource(stem(path, _ENDINGS), part, load)


def _differences(task_folder: str, native: NativeJson, survey: Survey) -> Iterator[str]:
    """Notes about what a copy has otherwise than the distributed task; none for a task of another name."""
    match = _TASK.fullmatch(task_folder)
    number = int(match[1]) if match else 0
    task = TASKS.get(number)
    if match is None or task is None or task.name != match[2]:
        return
    channels = [name for _, name in sorted(native.modality.items())]
    labels = [name for value, name in sorted(native.labels.items()) if value]
    for what, here, there in (("channels", channels, task.channels), ("labels", labels, task.labels)):
        if [name.lower() for name in here] != [name.lower() for name in there]:
            yield f"{what} {', '.join(here)} are not those of the distributed task ({', '.join(there)})"
    for what, count, full in (("training", survey.count("Tr"), task.training), ("test", survey.count("Ts"), task.test)):
        if count != full:
            yield f"{count} of the {full} distributed {what} cases are listed in this copy"
    if number == LITS_TASK:
        yield LITS_REMARK


def _is_ghost(name: str) -> bool:
    """Archives made on macOS hold a ``._`` twin of each file."""
    return Path(name).name.startswith("._")
