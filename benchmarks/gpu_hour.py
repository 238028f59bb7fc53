"""What only a real GPU can tell, in chunks under ten minutes; ``benchmarks/first_gpu_hour.sh`` runs all of them.

    python -m benchmarks.gpu_hour stages --rows finetune teacher_patch --output FOLDER
    python -m benchmarks.gpu_hour resume --output FOLDER
    python -m benchmarks.gpu_hour curves --output FOLDER
    python -m benchmarks.gpu_hour volume --output FOLDER
    python -m benchmarks.gpu_hour table --output FOLDER

Nothing is downloaded and no volume is read: weights are random, slices are drawn, and neither nibabel nor SimpleITK is
imported. Each chunk writes a file of JSON to FOLDER, and ``table`` makes one page of what is there.

``stages``: every stage at full size, made to fit as at the start of a training: seconds of a step (the mean of those
after the fifth), share of the peak of the device's bf16 products (8192 x 8192, measured in the same run), GiB at the
peak and as predicted. ``resume``: a training that was stopped goes on to the same weights, bit by bit. ``curves``: the
same training in single precision and in bf16. ``volume``: 150 slices of 512 x 512 pixels through a network in memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step_costs import TITLES
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.inference.precision import SINGLE
from samora_pipeline.inference.predictor import Predictor
from tests.pretend_cuda.full_size import DrawnSlices
from tests.pretend_cuda.insides import DEFAULT, HALF, STAGES, FullSize, fit_of, take_steps
from trainers.loop import loop
from trainers.methods import SAMoraTrainer

_WARM_UP = 5
"""steps before time is taken"""
_PEAK_SIDE = 8192
_BAR_SHARE, _BAR_SECONDS = 0.35, 0.5


def main(arguments: list[str] | None = None) -> int:
    """Run one chunk; the exit code is 1 where it found what must not be."""
    wanted = _parser().parse_args(arguments)
    wanted.output.mkdir(parents=True, exist_ok=True)
    if wanted.chunk == "table":
        print(table(wanted.output))
        return 0
    found, fine = _CHUNKS[wanted.chunk](wanted)
    name = "_".join([wanted.chunk, *wanted.rows]).replace(" ", "-")
    (wanted.output / f"{name}.json").write_text(json.dumps({"chunk": wanted.chunk, "found": found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return 0 if fine else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chunk", choices=(*_CHUNKS, "table"))
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rows", nargs="+", metavar="NAME", default=[], choices=list(STAGES), help="stages (all)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=224, help="pixels a side, of what is not in --rows (224)")
    parser.add_argument("--backbone", default="sam_vit_b", help="of what is not in --rows (sam_vit_b)")
    parser.add_argument("--slices", type=int, default=150, help="of the volume (150)")
    return parser


def stages(wanted: argparse.Namespace) -> tuple[Any, bool]:
    """One entry for each stage."""
    device = torch.device("cuda", 0)
    peak = products_per_second(device)
    rows = {}
    for name in wanted.rows or DEFAULT:
        rows[name] = _stage(name, device, wanted.steps) | {"peak_tflops": peak / 1e12}
        rows[name]["share"] = rows[name]["tflop"] * 1e12 / rows[name]["seconds"] / peak
        gc.collect()
        torch.cuda.empty_cache()
    return rows, True


def _stage(name: str, device: torch.device, steps: int) -> dict[str, Any]:
    before = torch.cuda.memory_allocated(device)
    fitted = fit_of(STAGES[name](), device)
    tflop = _tflop(fitted.training, device)
    torch.cuda.reset_peak_memory_stats(device)
    clock = Clock(min(_WARM_UP, steps - 1), steps, device)
    take_steps(fitted.training, device, steps, clock)
    return {
        "seconds": clock.seconds,
        "tflop": tflop,
        "peak_gib": (torch.cuda.max_memory_allocated(device) - before) / 2**30,
        "predicted_gib": fitted.predicted,
        "micro_batch": fitted.fit.micro_batch,
        "recomputed": fitted.fit.recomputes,
    }


def _tflop(training: Any, device: torch.device) -> float:
    """Operations of the products of one step, counted while it is taken."""
    with FlopCounterMode(display=False) as counter:
        take_steps(training, device, 1, lambda *_: None)
    return int(counter.get_total_flops()) / 1e12


class Clock:
    """A hook behind each update of an optimizer: the mean seconds of the steps from ``first`` to ``last``."""

    def __init__(self, first: int, last: int, device: torch.device) -> None:
        self.first, self.last, self.device = first, last, device
        self.updates, self.begun, self.seconds = 0, 0.0, float("nan")

    def __call__(self, *_: Any) -> None:
        """Count an update."""
        self.updates += 1
        if self.updates in (self.first, self.last):
            torch.cuda.synchronize(self.device)
            now = time.perf_counter()
            self.seconds = (now - self.begun) / (self.last - self.first)
            self.begun = now


def products_per_second(device: torch.device, side: int = _PEAK_SIDE, repeats: int = 20) -> float:
    """Operations per second of bf16 products of two square matrices."""
    left = torch.randn(side, side, device=device).bfloat16()
    begun = 0.0
    for number in range(repeats + 3):
        if number == 3:
            torch.cuda.synchronize(device)
            begun = time.perf_counter()
        left @ left
    torch.cuda.synchronize(device)
    return 2 * side**3 * repeats / (time.perf_counter() - begun)


def _finetuning(wanted: argparse.Namespace, steps: int) -> Any:
    source = DrawnSlices(wanted.size)
    training = FullSize(wanted.size, wanted.backbone, None, source).labelled(SAMoraTrainer)
    own = training.batches
    return replace(training, batches=lambda epoch: own(epoch)[:steps])


def resume(wanted: argparse.Namespace) -> tuple[Any, bool]:
    """Two epochs at once, and with a stop after the first: are the trained tensors equal, bit by bit?"""
    device = torch.device("cuda", 0)
    ended = []
    for epochs in ((2,), (1, 2)):
        with tempfile.TemporaryDirectory() as folder:
            for until in epochs:
                torch.manual_seed(0)
                training = replace(_finetuning(wanted, max(1, wanted.steps // 2)), epochs=until)
                place = loop.LoopContext(Path(folder), device, seed=0, digest="x", resume_command="", arithmetic=HALF)
                loop.train(training, place)
        ended.append({name: value.detach().cpu() for name, value in training.parameters.items()})
    whole, cut = ended
    apart = [name for name, value in whole.items() if not torch.equal(value, cut[name])]
    largest = max(float((value - cut[name]).abs().max()) for name, value in whole.items())
    return {"tensors": len(whole), "differ": len(apart), "largest_difference": largest}, not apart


def curves(wanted: argparse.Namespace) -> tuple[Any, bool]:
    """The losses of each step in single precision and in bf16, from the same weights and draws."""
    device = torch.device("cuda", 0)
    found: dict[str, list[float]] = {}
    for name, arithmetic in (("fp32", SINGLE), ("bf16", HALF)):
        torch.manual_seed(0)
        losses: list[float] = []
        training = _finetuning(wanted, wanted.steps)
        told = replace(training, after_step=lambda _, values, losses=losses: losses.append(values["loss"]))
        take_steps(told, device, wanted.steps, lambda *_: None, arithmetic)
        found[name] = losses
    apart = max(abs(a - b) for a, b in zip(found["fp32"], found["bf16"], strict=True))
    return {**found, "largest_difference": apart}, True


def volume(wanted: argparse.Namespace) -> tuple[Any, bool]:
    """Seconds of a volume, the second time it is predicted, and of the network in it."""
    device = torch.device("cuda", 0)
    built = FullSize(wanted.size, wanted.backbone)
    network = built.network(SAMoraTrainer)
    labels = LabelScheme({str(number): (number,) for number in range(1, 9)})
    predictor = Predictor([network], built.plans, labels, input_size=wanted.size, device=device)
    scan = torch.randn(wanted.slices, 512, 512, generator=torch.Generator().manual_seed(0)).numpy() * 100
    images = torch.rand(predictor.batch_size, 1, wanted.size, wanted.size, device=device)
    for _ in range(2):
        begun = time.perf_counter()
        predictor(scan, (3.0, 0.8, 0.8))
        seconds = time.perf_counter() - begun
    rounds = -(-wanted.slices // predictor.batch_size)
    with torch.inference_mode(), predictor.arithmetic.autocast(device):
        network(images)
        torch.cuda.synchronize(device)
        begun = time.perf_counter()
        for _ in range(rounds):
            network(images)
        torch.cuda.synchronize(device)
    found = {"seconds": seconds, "network_seconds": time.perf_counter() - begun, "slices": wanted.slices}
    return found | {"batch": predictor.batch_size, "precision": predictor.arithmetic.name}, True


_CHUNKS = {"stages": stages, "resume": resume, "curves": curves, "volume": volume}


def table(folder: Path) -> str:
    """One page of all that the chunks have left in a folder."""
    left = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    rows = [pair for one in left if one["chunk"] == "stages" for pair in one["found"].items()]
    lines = ["| stage | slices at a time | s/step | TFLOP | of the peak | peak GiB | predicted |", "|---" * 7 + "|"]
    for name, row in rows:
        cells = (
            f"{row['micro_batch']}{', recomputed' if row['recomputed'] else ''}",
            f"{row['seconds']:.3f}",
            f"{row['tflop']:.1f}",
            f"{row['share']:.0%}",
            f"{row['peak_gib']:.1f}",
            f"{row['predicted_gib']:.1f}",
        )
        lines.append(f"| {TITLES.get(name, name)} | {' | '.join(cells)} |")
    if rows:
        lines += [
            "",
            f"Peak of bf16 products: {rows[0][1]['peak_tflops']:.0f} TFLOP/s. Bar of the ViTs: {_BAR_SHARE:.0%}.",
        ]
    lines += [_sentence(one["chunk"], one["found"]) for one in left if one["chunk"] != "stages"]
    return "\n".join(lines)


def _sentence(chunk: str, found: dict[str, Any]) -> str:
    if chunk == "resume":
        most = f"{found['largest_difference']:.1e}"
        return f"Resumed: {found['differ']} of {found['tensors']} tensors differ, by at most {most}."
    if chunk == "curves":
        ends = ", ".join(f"{name} {found[name][0]:.4f} to {found[name][-1]:.4f}" for name in ("fp32", "bf16"))
        return f"Losses of {len(found['fp32'])} steps: {ends}; apart by at most {found['largest_difference']:.4f}."
    told = f"{found['slices']} slices, {found['batch']} at a time in {found['precision']}: {found['seconds']:.2f} s"
    return f"{told}, of the network {found['network_seconds']:.2f} s (bar: {_BAR_SECONDS} s)."


if __name__ == "__main__":
    sys.exit(main())
