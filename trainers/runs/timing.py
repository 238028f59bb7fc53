"""Writing timing.json, stage by stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.contracts.timing import TIMING_FILE, StageTiming, Timing


def read_timing(folder: Path) -> Timing:
    """What is recorded so far."""
    path = folder / TIMING_FILE
    return read_json(Timing, path) if path.is_file() else Timing()


def record_stage(folder: Path, stage: str, timing: StageTiming, device: str, ranks: int) -> None:
    """Add or replace one stage."""
    before = read_timing(folder)
    stages = {**before.stages, stage: timing}
    write_json(replace(before, device=device, ranks=ranks, stages=stages), folder / TIMING_FILE)


def record_seconds_per_volume(folder: Path, seconds: float) -> None:
    """Add the time that a volume takes from file to file."""
    write_json(replace(read_timing(folder), seconds_per_volume=round(seconds, 3)), folder / TIMING_FILE)
