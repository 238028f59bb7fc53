"""timing.json of a fold: seconds and peak memory of every stage, and seconds per predicted volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.run_log import Line

TIMING_FILE = "timing.json"


@dataclass(frozen=True)
class StageTiming:
    """One stage: seconds over all sittings, peak memory in GiB, epochs.

    ``reused`` means that another run made it; the seconds are that run's.
    """

    seconds: float
    memory_gib: float | None = None
    epochs: int | None = None
    reused: bool = False


@dataclass(frozen=True)
class Timing:
    """All stages of a fold, and the device and the number of processes that they were last run on."""

    schema_version: int = 1
    device: str = ""
    ranks: int = 1
    stages: dict[str, StageTiming] = field(default_factory=dict)
    seconds_per_volume: float | None = None


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


def of_history(history: Sequence[Line]) -> StageTiming:
    """The timing of a training from its epoch lines."""
    return StageTiming(
        seconds=round(sum(line["seconds"] for line in history), 3),
        memory_gib=max((line["memory_gib"] for line in history), default=None),
        epochs=len(history),
    )
