"""Trains the golden runs with the packages of two checkouts on this machine and says where they differ.

    python -m tests.golden.compare OLD_CHECKOUT NEW_CHECKOUT

Losses and tensors must be equal bit by bit, the same pairs of runs must share the same experts, and settings must be
equal by meaning. The exit code is 1 where they are not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.golden.differences import differences

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program for both checkouts at once and print the first differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="a checkout, or the JSON that the program wrote for one on this machine")
    parser.add_argument("new", type=Path, help="the same")
    parser.add_argument("--lines", type=int, default=40, help="how many differences are printed (default 40)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        values = _values_of([options.old, options.new], Path(folder))
    found = list(differences(*values))
    for line in found[: options.lines]:
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{len(found)} differences in {len(values[0]['runs'])} runs\n")
    return 1 if found else 0


def _values_of(sides: list[Path], folder: Path) -> list[Any]:
    """The values of each side, trained side by side, a process each."""
    files = [side if side.is_file() else folder / f"{number}.json" for number, side in enumerate(sides)]
    running = [program(side, file) for side, file in zip(sides, files, strict=True) if not side.is_file()]
    if any(process.wait() for process in running):
        raise SystemExit(2)
    return [json.loads(file.read_text()) for file in files]


def program(checkout: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start the golden runs of a checkout."""
    words = [sys.executable, "-m", "tests.golden.program", "--checkout", str(checkout), "--output", str(output)]
    return subprocess.Popen(words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""})


if __name__ == "__main__":
    sys.exit(main())
