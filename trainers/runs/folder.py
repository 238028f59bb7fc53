"""A run's fold folder: one folder, one configuration; what of it is finished, and how long it took."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from samora_pipeline.contracts.json_io import read_json, to_plain, write_json
from samora_pipeline.contracts.options import flat
from samora_pipeline.contracts.run import (
    CONFIG_FILE,
    FINAL_CHECKPOINT,
    LATEST_CHECKPOINT,
    SUMMARY_FILE,
    Choice,
    RunConfig,
)
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.contracts.timing import TIMING_FILE, StageTiming, Timing
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.files import digest_json
from trainers.loop.loop import LOG_FILE
from trainers.settings import EXACT

_SHOWN = 6
_REASON = ".why"
# What may differ between the folds of one run; everything else is the run.
_PER_FOLD = (
    *("fold", "selection", "scored", "pool", "teachers", "base.digest"),
    *("warnings", "excluded_leaks", "allowed_leaks", "held_out", "choices.precision", "taught_by", "started_from"),
)
_STAGE_DIGEST = ".digest"
_ESTIMATES = "estimates"
"""of the machine, and therefore no part of the configuration"""


def trained(folder: Path) -> bool:
    """Whether the fold has its final checkpoint."""
    return (folder / FINAL_CHECKPOINT).is_file()


def begun(folder: Path) -> bool:
    """Whether the fold has taken a step of its own; a start that failed before that blocks nothing."""
    return any((folder / name).is_file() for name in (LATEST_CHECKPOINT, FINAL_CHECKPOINT, LOG_FILE))


def existing_config(folder: Path) -> RunConfig | None:
    """The configuration that a fold folder already has; whoever trains it trusts the code that it names."""
    path = folder / CONFIG_FILE
    return read_run_config(path, allow_code=True) if path.is_file() else None


def earlier_choices(folder: Path) -> dict[str, Choice]:
    """What the run chose by itself when it was first started, in this fold or in another; empty for a new run."""
    for place in (folder, *sorted(folder.parent.glob("fold_*"))):
        if (config := existing_config(place)) is not None:
            return config.choices
    return {}


def check_config(folder: Path, config: RunConfig) -> RunConfig:
    """Compare with what the folder and its sibling folds hold; return the configuration to go on with.

    A bootstrapped base gets its digest when it is trained, so that digest is taken from the folder.

    Raises:
        DataError: ``E-RUN-19`` naming the differences.
    """
    existing = existing_config(folder)
    if existing is not None and begun(folder):
        if config.base is not None and existing.base is not None and config.base.origin == "bootstrap":
            config = replace(config, base=replace(config.base, digest=existing.base.digest))
        _compare(folder, existing, config, ignored=())
    for sibling in sorted(folder.parent.glob("fold_*")):
        other = existing_config(sibling)
        if sibling != folder and other is not None:
            _compare(sibling, other, config, ignored=_PER_FOLD)
    return config


def check_progress(folder: Path, *, resume: bool) -> None:
    """Refuse to touch a fold that was begun or finished, unless ``-c`` says so.

    Raises:
        UsageError: ``E-RUN-21`` begun, ``E-RUN-22`` finished.
    """
    if resume or not begun(folder):
        return
    if trained(folder) and (folder / SUMMARY_FILE).is_file():
        raise UsageError("E-RUN-22", found=f"{FINAL_CHECKPOINT} and {SUMMARY_FILE} in {folder}")
    raise UsageError("E-RUN-21", found=str(folder))


def config_digest(config: RunConfig) -> str:
    """A digest of all that determines a run; the reasons in the plan do not."""
    return digest_json({name: value for name, value in _settings(config).items() if not name.endswith(_REASON)})


def write_config(folder: Path, config: RunConfig) -> None:
    """Write config.json."""
    write_json(config, folder / CONFIG_FILE)


def _compare(folder: Path, existing: RunConfig, config: RunConfig, ignored: tuple[str, ...]) -> None:
    old, new = _settings(existing), _settings(config)
    if ignored:
        ignored = (*ignored, *(name for name in (*old, *new) if name.endswith(_STAGE_DIGEST)))
    differing = [
        name
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
        and not name.endswith(_REASON)
        and not any(name == part or name.startswith((f"{part}.", f"{part}[")) for part in ignored)
    ]
    if not differing:
        return
    shown = [f"{name} {_short(old.get(name))} -> {_short(new.get(name))}" for name in differing[:_SHOWN]]
    more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    raise DataError(
        "E-RUN-19",
        what="the run's folder holds another configuration",
        found=f"{'; '.join(shown)}{more}  (in {folder})",
        expected="the settings it was begun with",
        fix="repeat the command with those settings, or start a new run with --name NAME",
    )


def _settings(config: RunConfig) -> dict[str, Any]:
    """All that determines the result of a run by dotted name, the stages by theirs."""
    plain = to_plain(config)
    plain.pop(_ESTIMATES, None)
    stages = {stage.pop("name"): stage for stage in plain.pop("stages")}
    for stage in stages.values():
        stage["settings"] = {name: value for name, value in stage["settings"].items() if name not in EXACT}
    return flat({**plain, "stages": stages})


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
