"""Time and memory at scale: many cases to predict, and a scan of many slices through every command.

python -m tests.reliability.scale cases [N]       seconds a case at the beginning and at the end (default 5000)
python -m tests.reliability.scale slices [N]      largest memory of each command (default 2000 slices of 512 x 512)
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np

from samora_pipeline.inference.record import OutputFolder
from tests.fake_run import RUN, write_fake_run, write_image
from tests.reliability.forked import run

_SHARE = 100
_SIDE = 512
_DATASET = "Dataset001_Long"


def cases(folder: Path, count: int) -> tuple[float, float]:
    """Seconds a case of the first and of the last hundred of ``count`` small scans."""
    write_fake_run(folder / "root" / "results")
    array = np.random.default_rng(0).integers(-200, 400, (16, 16, 2)).astype(np.int16)
    first = write_image(folder / "scans" / "case_00000.nii.gz", array)
    for number in range(1, count):
        os.link(first, folder / "scans" / f"case_{number:05d}.nii.gz")
    times = folder / "times"
    words = ["samora_predict", "-i", f"{folder}/scans", "-o", f"{folder}/out", "-m", RUN, "--device", "cpu", "--fp32"]
    outcome = run(words, folder, folder / "log", seconds=7200, before=lambda: _note_times(times))
    if outcome.status != 0:
        raise RuntimeError(outcome.text[-2000:])
    moments = [float(line) for line in times.read_text().split()]
    share = min(_SHARE, count // 3)
    return (moments[share] - moments[0]) / share, (moments[-1] - moments[-1 - share]) / share


def _note_times(path: Path) -> None:
    """In a child: write when each case is done."""
    add: Callable[..., None] = OutputFolder.add

    def noting(*words: object) -> None:
        add(*words)
        with path.open("a") as stream:
            stream.write(f"{time.monotonic()}\n")

    OutputFolder.add = noting  # type: ignore[method-assign,assignment]


def slices(folder: Path, count: int) -> dict[str, int]:
    """MB of each command with a scan of ``count`` slices, which is learned from in one fold and scored in the other."""
    raw = folder / "root" / "raw" / _DATASET
    _write_scans(raw, (count, 8, 8))
    used: dict[str, int] = {}

    def measure(name: str, words: list[str]) -> None:
        begun = time.monotonic()
        status, used[name] = _as_from_a_shell(words, folder)
        sys.stdout.write(f"{name:10} {used[name]:6} MB {time.monotonic() - begun:8.1f} s exit {status}\n")
        sys.stdout.flush()
        if status != 0:
            raise RuntimeError((folder / "log").read_text()[-3000:])

    measure("plan", ["samora_plan_and_preprocess", "-d", "Long", "-np", "1"])
    splits = json.loads(next((folder / "root/preprocessed").glob("*/splits.json")).read_text())
    folds = {name: fold["train"] for name, fold in splits["folds"].items()}
    learned = next(name for name, train in folds.items() if "case_0" in train)
    scored = next(name for name, train in folds.items() if "case_0" not in train)
    short = [word for value in ("epochs=1", "steps_per_epoch=2", "batch=4") for word in ("--set", f"finetune.{value}")]
    train = ["samora_train", "Long", "SAMedTrainer", "full", "--name", "l", "--backbone", "samora_tiny", *short]
    measure("learned", [*train, "--device", "cpu", "-f", learned])
    measure("scored", [*train, "--device", "cpu", "-f", scored])
    run_name = "SAMedTrainer__full__l"
    measure("report", ["samora_report", f"{run_name}/fold_{scored}", "-o", f"{folder}/report.html"])
    predict = ["samora_predict", "-i", f"{raw}/imagesTr/case_0_0000.nii.gz", "-o", f"{folder}/out", "-m", run_name]
    measure("predict", [*predict, "-f", scored, "--device", "cpu"])
    return used


def _as_from_a_shell(words: list[str], folder: Path) -> tuple[int, int]:
    """Run a command in a process of its own, which inherits no memory; its exit and its largest MB."""
    script = importlib.metadata.entry_points(group="console_scripts")[words[0]]
    code = f"from {script.module} import {script.attr} as main; raise SystemExit(main())"
    environment = {**os.environ, "SAMORA_ROOT": str(folder / "root")}
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen([sys.executable, "-c", code, *words[1:]], stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage.ru_maxrss // 1024


def _write_scans(raw: Path, depths: Sequence[int]) -> None:
    for kind in ("imagesTr", "labelsTr"):
        (raw / kind).mkdir(parents=True)
    for number, depth in enumerate(depths):
        _write_scan(raw, f"case_{number}", depth)
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "ball": 1}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps({**described, "numTraining": len(depths)}))


def _write_scan(raw: Path, name: str, depth: int) -> None:
    """A ball that runs through all slices, in noise of a few values."""
    draw = np.random.default_rng(depth)
    x, y = np.meshgrid(np.arange(_SIDE), np.arange(_SIDE), indexing="ij")
    image = np.empty((_SIDE, _SIDE, depth), dtype=np.int16, order="F")
    labels = np.zeros((_SIDE, _SIDE, depth), dtype=np.uint8, order="F")
    for z in range(depth):
        inside = np.hypot(x - 256 - 60 * np.sin(z / 50), y - 256) < 80
        image[..., z] = np.where(inside, 200, -50) + draw.integers(-8, 8, (_SIDE, _SIDE))
        labels[..., z] = inside
    for place, array in ((f"imagesTr/{name}_0000", image), (f"labelsTr/{name}", labels)):
        nibabel.save(nibabel.Nifti1Image(array, np.diag([0.7, 0.7, 1.0, 1.0])), raw / f"{place}.nii.gz")


def main(words: list[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cases", "slices"))
    parser.add_argument("count", type=int, nargs="?")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        if given.what == "slices":
            used = slices(Path(scratch), given.count or 2000)
            sys.stdout.write(f"the most: {max(used.values())} MB\n")
            return 0
        first, last = cases(Path(scratch), given.count or 5000)
    sys.stdout.write(f"first hundred {1000 * first:.1f} ms a case, last hundred {1000 * last:.1f} ms\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
