"""Trains the golden runs by the commands of one checkout and writes what came out as JSON.

    python -m tests.golden.program --checkout . --output values.json

Every command runs in a forked child, as from a shell but without importing torch anew. Nothing is drawn: a picture
costs more than the training of its stage.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import pkgutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.golden.commands import RUNS, plan_command, resolved_commands, train_command
from tests.golden.dataset import NAME, write_raw_dataset
from tests.golden.meaning import printed_settings
from tests.golden.record import record_run, shared_stages, stage_folders
from tests.no_pictures import savefig

ROOT = Path(__file__).resolve().parents[2]

Main = Callable[[list[str]], int]


def golden_runs(root: Path) -> dict[str, Any]:
    """Train all runs below ``root`` and return their records; the commands are those that ``import`` finds."""
    write_raw_dataset(root)
    from planners.cli import main as plan
    from trainers.cli import main as train

    _call(plan, plan_command(str(root)))
    resolved = {name: printed_settings(_call(train, words)) for name, words in resolved_commands(str(root)).items()}
    records, folders = {}, {}
    for name in RUNS:
        before = stage_folders(root)
        _call(train, train_command(name, str(root)))
        (folders[name],) = (root / "results" / NAME).glob(f"*__{name}")
        records[name] = record_run(root, folders[name], stage_folders(root) - before)
    return {"runs": records, "shared": shared_stages(root, folders), "resolved": resolved}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose packages are used (default: this one)")
    parser.add_argument("--output", type=Path, required=True, help="the JSON to write")
    options = parser.parse_args(arguments)
    _use(options.checkout.resolve())
    with tempfile.TemporaryDirectory() as root:
        values = golden_runs(Path(root))
    options.output.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    return 0


def _use(checkout: Path) -> None:
    """Import the packages of a checkout from now on, whatever is installed."""
    sys.path.insert(0, str(checkout))
    import planners
    import samora_pipeline
    import trainers

    if Path(trainers.__file__).parent.parent != checkout:
        raise RuntimeError(f"trainers were imported from {trainers.__file__}, not from {checkout}")
    # Once, here: commands import what they need when they need it, and every child would pay for that again.
    for package in (samora_pipeline, planners, trainers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


def _call(command: Main, words: list[str]) -> str:
    """Run a command in a forked child and return what it wrote.

    Raises:
        RuntimeError: it ended with another code than 0.
    """
    with tempfile.TemporaryFile("w+") as output:
        child = multiprocessing.get_context("fork").Process(target=_child, args=(command, words, output.fileno()))
        child.start()
        child.join()
        output.seek(0)
        text = output.read()
    if child.exitcode:
        raise RuntimeError(f"{' '.join(words)} ended with {child.exitcode}:\n{text}")
    return text


def _child(command: Main, words: list[str], output: int) -> None:
    for stream in (1, 2):
        os.dup2(output, stream)
    import torch
    from matplotlib.figure import Figure

    torch.set_num_threads(1)
    _stay_in_single_precision()
    Figure.savefig = savefig  # type: ignore[method-assign, assignment]
    code = command(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _stay_in_single_precision() -> None:
    """On a CPU with instructions for bfloat16 too; checkouts differ in which module asks for them."""
    for name in ("precision", "device"):
        module = sys.modules.get(f"samora_pipeline.inference.{name}")
        if hasattr(module, "cpu_bf16_instructions"):
            module.cpu_bf16_instructions = lambda: ""  # type: ignore[union-attr]


if __name__ == "__main__":
    sys.exit(main())
