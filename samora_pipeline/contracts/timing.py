"""timing.json of a fold: seconds and peak memory of every stage, and seconds per predicted volume."""

from dataclasses import dataclass, field

TIMING_FILE = "timing.json"


@dataclass(frozen=True)
class StageTiming:
    """One stage: seconds over all sessions, peak memory in GiB, epochs and optimizer steps.

    ``reused`` means that another run made it; the seconds are that run's. ``micro_batch``: slices that were on one
    device at a time in the last epoch; ``recomputed``: whether activations were computed again instead of being kept.
    """

    seconds: float
    memory_gib: float | None = None
    epochs: int | None = None
    reused: bool = False
    steps: int | None = None
    micro_batch: int | None = None
    recomputed: bool = False


@dataclass(frozen=True)
class Timing:
    """All stages of a fold, and the device and the number of processes that they were last run on."""

    schema_version: int = 1
    device: str = ""
    ranks: int = 1
    stages: dict[str, StageTiming] = field(default_factory=dict)
    seconds_per_volume: float | None = None
