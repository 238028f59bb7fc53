"""What the faults are put into: a few drawn scans taken through every command, made once and copied for each trial.

Nearly all options that are given to commands stand in this file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open

from tests.golden.dataset import NAME as DRAWN
from tests.golden.dataset import write_raw_dataset
from tests.reliability import forked

DATASET = "Dataset100_Balls"
RUN_NAME = "SAMoraTrainer__2cases__n"
RUN = f"{DATASET}/{RUN_NAME}"
FOLD = f"root/results/{RUN}/fold_0"
RAW = f"root/raw/{DATASET}"
PREPROCESSED = f"root/preprocessed/{DATASET}"

PLAN = ["samora_plan_and_preprocess", "-d", "Balls", "--set", "input_size=64"]
_STAGES = ("expert_image", "expert_patch", "expert_pixel", "finetune")
_SHORT = [w for s in _STAGES for k in ("epochs=2", "steps_per_epoch=2", "batch=4") for w in ("--set", f"{s}.{k}")]
_DEVICE = ["--backbone", "samora_tiny", "--device", "cpu"]


def convert(trial: Path, *more: str) -> list[str]:
    """The command that converts the source of a trial folder."""
    folders = [f"{trial}/source/images", f"{trial}/source/labels"]
    named = ["--name", "Balls", "--label-names", "ball", "hole", "--channel", "CT"]
    return ["samora_convert", *folders, *named, *more]


def train(name: str = "n", *more: str, fold: str = "0") -> list[str]:
    """A training of all stages: three experts, then the fine-tuning."""
    return ["samora_train", "Balls", "SAMoraTrainer", "2cases", "-f", fold, "--name", name, *_DEVICE, *_SHORT, *more]


def train_fast(*more: str) -> list[str]:
    """A training without experts: two epochs of two steps."""
    short = _SHORT[-6:]
    return ["samora_train", "Balls", "SAMedTrainer", "2cases", "-f", "0", "--name", "s", *_DEVICE, *short, *more]


def predict(trial: Path, *more: str, output: str = "out") -> list[str]:
    """The prediction of all scans of a trial folder."""
    scans = ["-i", f"{trial}/{RAW}/imagesTr", "-o", f"{trial}/{output}"]
    return ["samora_predict", *scans, "-m", RUN, *more, "--device", "cpu", "--fp32"]


def evaluate(trial: Path) -> list[str]:
    """The scores of the predictions of a trial folder."""
    return ["samora_evaluate", "-g", f"{trial}/{RAW}/labelsTr", "-p", f"{trial}/preds"]


@dataclass(frozen=True)
class Command:
    """Parts that are copied, the words, what is said when it is repeated, parts that are compared."""

    parts: tuple[str, ...]
    words: Callable[[Path], list[str]]
    compared: tuple[str, ...]
    again: tuple[str, ...] = ()


BOTH = ("root/raw", "root/preprocessed")
COMMANDS = {
    "convert": Command(("source",), convert, ("root/raw",)),
    "overwrite": Command(("source", "root/raw"), lambda t: convert(t, "--overwrite"), ("root/raw",)),
    "plan": Command(("root/raw",), lambda _: PLAN, ("root/preprocessed",)),
    "replan": Command(BOTH, lambda _: [*PLAN, "--set", "slice_axis=coronal"], ("root/preprocessed",)),
    "train": Command(BOTH, lambda _: train(), ("root/results",), ("-c",)),
    "train_fast": Command(BOTH, lambda _: train_fast(), ("root/results",), ("-c",)),
    "predict": Command(
        ("root/raw", "root/results"),
        lambda t: predict(t, "--save-probabilities", "--save-uncertainty"),
        ("out",),
        ("--continue",),
    ),
    "evaluate": Command(("root/raw", "preds"), evaluate, ("preds",)),
    "report": Command(("root",), lambda _: ["samora_report", RUN], (f"root/results/{RUN}/report.html",)),
    "compare": Command(("root",), lambda _: ["samora_compare", RUN, RUN], ()),
    "export": Command(("root",), lambda t: ["samora_export", RUN, "-o", f"{t}/x.zip"], ("x.zip",)),
    "export_folder": Command(("root",), lambda t: ["samora_export", RUN, "-o", f"{t}/xf"], ("xf",)),
    "import": Command(("m.zip",), lambda t: ["samora_import", f"{t}/m.zip"], ("root/results",)),
}

# Times, pictures, logs and monitoring reports differ between equal runs.
_NOT_COMPARED = re.compile(
    r"(^|/)\.lock$|\.png$|log\.jsonl$|timing\.json$|monitoring\.json$|record\.json$|\.csv$|inputs\.json$|experts\.json$"
    r"|\.partial-|conversion.*\.json$"
)


@dataclass
class Workplace:
    """Where trials are made: ``made`` holds the parts that they copy, ``scratch`` is theirs."""

    made: Path
    scratch: Path
    _references: dict[str, tuple[dict[str, str], forked.Outcome]] = field(default_factory=dict)

    @property
    def trial(self) -> Path:
        """The folder of the trial under way."""
        return self.scratch / "trial"

    @property
    def log(self) -> Path:
        """What its last command said."""
        return self.scratch / "log"

    def setup(self, parts: Iterable[str]) -> Path:
        """Make the trial folder anew, with copies of these parts (``midroot`` becomes ``root``)."""
        remove(self.trial)
        (self.trial / "root").mkdir(parents=True)
        for part in parts:
            target = self.trial / part.replace("midroot", "root")
            if (self.made / part).is_dir():
                shutil.copytree(self.made / part, target, symlinks=True, dirs_exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.made / part, target)
        return self.trial

    def run(
        self,
        words: Sequence[str],
        *,
        seconds: float = 60,
        before: Callable[[], None] = lambda: None,
        after: Callable[[], str] = str,
        user: int | None = None,
    ) -> forked.Outcome:
        """Run a command in the trial folder."""
        return forked.run(words, self.trial, self.log, seconds=seconds, before=before, after=after, user=user)

    def reference(self, name: str, command: Command) -> tuple[dict[str, str], forked.Outcome]:
        """Results and outcome of the undisturbed command, which has to end well."""
        if name not in self._references:
            self.setup(command.parts)
            outcome = self.run(command.words(self.trial), seconds=300)
            if outcome.status != 0:
                raise RuntimeError(f"{name} fails without any fault: {outcome.status}\n{outcome.text[-3000:]}")
            self._references[name] = results(self.trial, command.compared), outcome
        return self._references[name]


def make(folder: Path) -> Path:
    """Take the drawn scans through every command below ``folder``; about half a minute."""
    place = Workplace(folder, folder / "making")
    place.setup(())
    trial = place.trial
    write_raw_dataset(trial / "drawn")
    for kind, target in (("imagesTr", "images"), ("labelsTr", "labels")):
        (trial / "source" / target).mkdir(parents=True)
        for path in (trial / "drawn" / "raw" / DRAWN / kind).iterdir():
            shutil.copy(path, trial / "source" / target / path.name.replace("_0000", ""))
    _must(place, convert(trial))
    _must(place, PLAN)
    shutil.copytree(trial / "root", folder / "whole", symlinks=True)
    outcome = place.run(train(), seconds=300, before=_stop_in_second_epoch)
    if outcome.status != -signal.SIGKILL:
        raise RuntimeError(f"no half-trained run: {outcome.status}\n{outcome.text[-3000:]}")
    (trial / "root").rename(folder / "midroot")
    (folder / "whole").rename(trial / "root")
    _must(place, train())
    _must(place, predict(trial, output="preds"))
    _must(place, evaluate(trial))
    _must(place, ["samora_export", RUN, "-o", f"{trial}/m.zip"])
    _must(place, ["samora_export", RUN, "-o", f"{trial}/mfolder"])
    for name in ("source", "root", "preds", "m.zip", "mfolder"):
        (trial / name).rename(folder / name)
    remove(place.scratch)
    return folder


def _must(place: Workplace, words: list[str]) -> None:
    outcome = place.run(words, seconds=300)
    if outcome.status != 0:
        raise RuntimeError(f"{' '.join(words)} -> {outcome.status}\n{outcome.text[-3000:]}")


def _stop_in_second_epoch() -> None:
    """In a child: end by SIGKILL once the fine-tuning has saved its second state."""
    rename, saved = os.replace, []

    def replace(old: str, new: str) -> None:
        rename(old, new)
        if "latest" in Path(new).name and RUN_NAME in str(new):
            saved.append(new)
            if len(saved) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace  # type: ignore[assignment]


def remove(folder: Path) -> None:
    """Remove a folder, whatever its permissions have become."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        subprocess.run(["chmod", "-R", "u+rwx", str(folder)], check=False)
        shutil.rmtree(folder)


def results(trial: Path, parts: Iterable[str]) -> dict[str, str]:
    """Digests of the files below these parts; of reports only that they are there."""
    found = {}
    for part in parts:
        top = trial / part
        for path in [top] if top.is_file() else sorted(p for p in top.rglob("*") if p.is_file()):
            name = path.relative_to(trial).as_posix()
            if name.endswith(".html"):
                found[name] = "there"
            elif not _NOT_COMPARED.search(name):
                found[name] = _content(path, trial)
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names whose content differs, or that only one has."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def _content(path: Path, trial: Path) -> str:
    """A digest of what a file says: tensors of a checkpoint, entries of a zip, a record without its times."""
    data = path.read_bytes()
    try:
        if path.suffix == ".safetensors":
            return _tensors(path)
        if path.name.startswith("run") and path.suffix == ".json":
            record = json.loads(data)
            # The place, and a digest of a config.json with what was measured on the way.
            record["model"].update(run="", configs={})
            cases = {name: {**case, "seconds": 0, "settings": ""} for name, case in record["cases"].items()}
            data = json.dumps([record["model"], cases], sort_keys=True).encode()
        if path.name == "config.json":
            # What was measured on the way, and the reasons that quote it.
            config = {**json.loads(data), "estimates": {}}
            choices = {name: choice["value"] for name, choice in config["choices"].items()}
            data = json.dumps({**config, "choices": choices}, sort_keys=True).encode()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                own = [n for n in sorted(archive.namelist()) if not re.search("model.json|digests.json|MODEL_CARD", n)]
                data = json.dumps([[n, hashlib.sha256(archive.read(n)).hexdigest()] for n in own]).encode()
    except Exception:  # a damaged file is compared by its bytes
        pass
    return hashlib.sha256(data.replace(str(trial).encode(), b"TRIAL")).hexdigest()


def _tensors(path: Path) -> str:
    digest = hashlib.sha256()
    with safe_open(path, framework="pt") as stream:
        for name in sorted(stream.keys()):
            tensor = stream.get_tensor(name)
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
