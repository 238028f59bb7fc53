"""Stands in for python in ``first_gpu_hour.sh``: its programs on a pretended device, with tiny stages, without readers.

python -m tests.benchmarks.pretended_hour -m benchmarks.gpu_hour CHUNK ...
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

READERS = ("nibabel", "SimpleITK", "pydicom", "h5py", "samora_pipeline.imaging.files", "samora_pipeline.imaging.dicom")
TINY = ("--size", "64", "--backbone", "samora_tiny", "--steps", "4", "--slices", "5")


def main(words: list[str]) -> int:
    """Run ``-m MODULE ARGUMENT...``."""
    for name in READERS:
        sys.modules[name] = None  # type: ignore[assignment] # as if the package were not installed
    from tests.pretend_cuda import full_size, insides
    from trainers import methods, recipes

    tiny = insides.FullSize(64, "samora_tiny", None, full_size.DrawnSlices(64))
    builds: dict[str, Callable[[], Any]] = {
        "finetune": lambda: tiny.labelled(methods.SAMoraTrainer),
        "expert": lambda: tiny.expert(recipes.DENOISING, tiny.denoising),
    }
    insides.STAGES.update(
        {name: builds["finetune" if name.startswith("finetune") else "expert"] for name in insides.STAGES}
    )
    program = importlib.import_module(words[1])
    with full_size.pretended() as device:
        device.count_lines = False
        code: int = program.main([*words[2:], *TINY])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
