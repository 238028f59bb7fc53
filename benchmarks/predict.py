"""Time ``samora_predict`` on one synthetic CT volume, from file to file, with a network of random weights.

    python benchmarks/predict.py --backbone samora_tiny --size 128 --slices 10     seconds
    python benchmarks/predict.py                                                   150 slices of 512 x 512, minutes

A run folder as ``samora_train`` leaves it and a scan (.nii.gz, Hounsfield units, noise of 15 HU) are written to a
temporary folder; then the command runs in a process of its own. Two times are given: that of the whole command, which
imports torch and reads and checks the weights, and that of the volume alone (read, predict, write, from run.json). The
bars, for two cores and SAMora at 224 px, hold for the whole command.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import nibabel
import numpy as np
import torch
from safetensors.torch import save_file

from samora_pipeline import resources
from samora_pipeline.contracts.checkpoints import save_checkpoint
from samora_pipeline.contracts.json_io import read_object, to_plain, write_json
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import FusionSpec, ModelSpec, Scope
from samora_pipeline.contracts.plans import IntensityRule, Planned, Plans
from samora_pipeline.contracts.run import (
    BASE_FILE,
    CONFIG_FILE,
    FINAL_CHECKPOINT,
    BaseRecord,
    PoolRecord,
    RunConfig,
)
from samora_pipeline.contracts.splits import Selection
from samora_pipeline.files import digest_file
from samora_pipeline.models.assembly import build_network, trained_state
from samora_pipeline.weights.sam_checkpoint import base_state

DATASET = "Dataset900_Benchmark"
ORGANS = ("spleen", "right_kidney", "left_kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas")
BARS = {"fp32": 140.0, "bf16": 75.0}
"""seconds for 150 slices of 512 x 512 on two cores"""
_COMMAND = "import sys; from samora_pipeline.inference.cli import main; sys.exit(main(sys.argv[1:]))"


def plan(size: int) -> Plans:
    """The plan of a CT dataset whose slices are resized to ``size`` pixels."""
    why = "benchmark"
    return Plans(
        dataset=DATASET,
        channel_names=("CT",),
        slice_axis=Planned("axial", why),
        in_plane=Planned("resize", why),
        in_plane_spacing=Planned(None, why),
        slice_size=Planned(None, why),
        input_size=Planned(size, why),
        channels=Planned("repeat", why),
        intensity=Planned((IntensityRule("window", -125.0, 275.0),), why),
        mirror=Planned(False, why),
        fingerprint_digest="0" * 64,
    )


def write_run(results: Path, backbone: str, decoder: str, scope: Scope, size: int, seed: int) -> Path:
    """Write a finished run of SAMora with random weights for eight organs; return its folder."""
    torch.manual_seed(seed)
    folder = results / DATASET / "SAMoraTrainer__full__default"
    fold = folder / "fold_0"
    fold.mkdir(parents=True)
    spec = ModelSpec(backbone, size, len(ORGANS) + 1, fusion=FusionSpec(scope=scope), decoder=decoder, lora_rank=4)
    network = build_network(spec)
    save_file(base_state(network), folder / BASE_FILE)
    base = BaseRecord("bootstrap", digest_file(folder / BASE_FILE), "bootstrap")
    config = RunConfig(
        dataset=DATASET,
        trainer="SAMoraTrainer",
        split="full",
        fold="0",
        name="default",
        recipe="none",
        seed=seed,
        model=spec,
        base=base,
        plans=plan(size),
        labels=LabelScheme({name: (value,) for value, name in enumerate(ORGANS, start=1)}),
        file_ending=".nii.gz",
        selection=Selection("full", "0", "cases", seed, False, ()),
        scored=(),
        pool=PoolRecord({}, ()),
        warnings=("RANDOM WEIGHTS",),
    )
    write_json(config, fold / CONFIG_FILE)
    record = {"model": to_plain(spec), "base_digest": base.digest, "trainer": config.trainer}
    save_checkpoint(fold / FINAL_CHECKPOINT, trained_state(network), record)
    return folder


def write_scan(path: Path, slices: int, side: int, seed: int) -> None:
    """Write an ellipse of soft tissue with noise, 0.78 x 0.78 x 3 mm."""
    rng = np.random.default_rng(seed)
    x, y = np.ogrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    body = np.where((x / 0.8) ** 2 + (y / 0.6) ** 2 < 1, 50.0, -1000.0)
    array = np.empty((side, side, slices), dtype=np.int16)
    for index in range(slices):
        array[..., index] = np.rint(body + rng.normal(0, 15, (side, side)))
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-0.78, -0.78, 3.0, 1.0])), path)


def predict(root: Path, scan: Path, out: Path, words: list[str]) -> tuple[float, float, dict[str, Any], str]:
    """Run the command; return its seconds by the clock and on the processors, run.json and what it said."""
    command = [sys.executable, "-c", _COMMAND, "--root", str(root), "-i", str(scan), "-o", str(out), *words]
    begun, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    if result.returncode:
        raise SystemExit(result.stdout + result.stderr)
    return seconds, processor, read_object(out / "run.json"), result.stdout


def main(argv: list[str] | None = None) -> None:
    """Write run and scan, predict, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="sam_vit_b")
    parser.add_argument("--decoder", default="samed")
    parser.add_argument("--scope", choices=get_args(Scope), default="block", help="of the fusion")
    parser.add_argument("--size", type=int, default=224, help="input size of the network in pixels")
    parser.add_argument("--slices", type=int, default=150)
    parser.add_argument("--side", type=int, default=512, help="pixels along a slice of the scan")
    parser.add_argument("--fp32", action="store_true", help="as in samora_predict")
    parser.add_argument("--device", help="as in samora_predict")
    parser.add_argument("--batch", help="as in samora_predict")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the times to this file")
    arguments = parser.parse_args(argv)
    words = ["--fp32"] * arguments.fp32
    for flag in ("device", "batch"):
        words += [f"--{flag}", getattr(arguments, flag)] if getattr(arguments, flag) else []
    records = []
    with tempfile.TemporaryDirectory() as place:
        root, scan = Path(place) / "root", Path(place) / "case_0000.nii.gz"
        write_run(
            root / "results", arguments.backbone, arguments.decoder, arguments.scope, arguments.size, arguments.seed
        )
        write_scan(scan, arguments.slices, arguments.side, arguments.seed)
        for number in range(arguments.repeats):
            load = os.getloadavg()[0]
            seconds, processor, record, said = predict(root, scan, Path(place) / f"out{number}", words)
            phases = record["cases"]["case"]["seconds"]
            precision = record["precision"]
            print(next(line for line in said.splitlines() if line.startswith("device:")))
            print(
                f"{arguments.slices} slices of {arguments.side} x {arguments.side}, {arguments.backbone} at "
                f"{arguments.size} px, scope {arguments.scope}, {resources.cores().value} cores, "
                f"load {load:.1f} before\n"
                f"  command {seconds:.1f} s ({processor:.1f} s on the processors), volume {sum(phases.values()):.1f} s "
                f"({', '.join(f'{name} {value:.1f}' for name, value in phases.items())})",
                flush=True,
            )
            bar = BARS[precision]
            if (arguments.slices, arguments.side, arguments.size, arguments.backbone) == (150, 512, 224, "sam_vit_b"):
                print(f"  bar at most {bar:g} s in {precision}: {'reached' if seconds <= bar else 'missed'}")
            records.append(
                {"command": seconds, "processors": processor, "phases": phases, "precision": precision, "load": load}
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
