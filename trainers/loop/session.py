"""What a session of a training does beside its steps: it keeps the position, skips steps, draws.

No state of a random generator is stored with the position: every step is seeded from (seed, stage, step) and every
sample from (seed, epoch, sample), so the position alone determines what comes next, on any number of ranks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from samora_pipeline.contracts.checkpoints import load_checkpoint, save_checkpoint
from samora_pipeline.errors import DataError
from samora_pipeline.run_log import Line, logger

if TYPE_CHECKING:
    from trainers.loop.loop import Training


PATIENCE = 20
"""such steps in a row after which a training counts as diverged"""
_SHOWN = 8
"""slices that the console names; log.jsonl has them all"""


PROGRESS_FILE = "progress.png"
_SHARE = 100
"""a new picture is due when this many times the last one's drawing time has passed"""
_FIRST = 60.0
"""seconds before the first one"""
_SCHEMA_VERSION = 1


class Skipping:
    """Leaves steps out.

    ``buffers`` are what a forward pass itself changes: running statistics that have taken in one NaN hold it for ever,
    although no parameter has moved. ``names`` turns sample numbers into slices.
    """

    def __init__(self, stage: str, buffers: Iterable[Tensor], names: Callable[[list[int]], Sequence[str]]) -> None:
        self._stage, self._names = stage, names
        self._buffers = list(buffers)
        self._kept: list[Tensor] = []
        self._in_a_row = 0

    def before_step(self) -> None:
        """Keep the buffers until it is known whether the step counts."""
        self._kept = [buffer.clone() for buffer in self._buffers]

    def after_finite_step(self) -> None:
        """Nothing is left out."""
        self._in_a_row = 0

    @torch.no_grad()
    def restore(self) -> None:
        """Give the buffers back what they had before the step."""
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(kept)

    def skip(self, state: LoopState, batch: list[int], loss: float, gradient_norm: float) -> None:
        """Undo what the step under way has changed, and note its slices in ``state``.

        Raises:
            DataError: ``E-TRAIN-01`` there was no finite step for too long.
        """
        self.restore()
        state.skipped += 1
        self._in_a_row += 1
        names = list(self._names(batch))
        state.skipped_slices = sorted({*state.skipped_slices, *names})
        why = f"not finite (loss {loss}, gradient norm {gradient_norm}), slices {_some(names)}"
        logger.warning("%s: step %d skipped, %s", self._stage, state.step + 1, why)
        if self._in_a_row >= PATIENCE:
            raise DataError(
                "E-TRAIN-01",
                stage=self._stage,
                found=f"{PATIENCE} steps in a row without a finite loss and gradient, the last with {_some(names)}",
            )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more, see log.jsonl" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


class ProgressPicture:
    """Draws ``progress.png`` at most one hundredth of the time, and once at the end."""

    def __init__(self, path: Path, title: str) -> None:
        self._path, self._title = path, title
        self._due = time.monotonic() + _FIRST

    def update(self, history: Sequence[Line], *, last: bool = False) -> None:
        """Draw ``history`` if a picture is due or this is the ``last`` epoch."""
        begun = time.monotonic()
        if not history or (begun < self._due and not last):
            return
        from samora_pipeline.reporting.curves import draw_progress

        draw_progress(history, self._path, self._title)
        done = time.monotonic()
        self._due = done + _SHARE * (done - begun)


@dataclass
class LoopState:
    """The position: ``epoch`` under way, ``step_in_epoch`` steps of it done, ``step`` steps done in all.

    ``sums`` holds this epoch's sums of loss and metrics over its ``counted`` finite steps, ``seconds`` the time spent
    on it, ``slices`` the samples it has seen; ``skipped`` counts non-finite steps of the whole training,
    ``skipped_slices`` are those of this epoch's; ``history`` has one line per finished epoch.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    counted: int = 0
    slices: int = 0
    skipped: int = 0
    skipped_slices: list[str] = field(default_factory=list)
    seconds: float = 0.0
    waited: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[Line] = field(default_factory=list)


def save_state(path: Path, state: LoopState, training: Training, digest: str) -> None:
    """Write parameters, buffers, what is carried, the optimizer's tensors by parameter name, and the position."""
    tensors: dict[str, Tensor] = {f"parameter/{name}": value for name, value in training.parameters.items()}
    tensors |= {f"buffer/{name}": value for name, value in training.buffers.items()}
    tensors |= {f"carried/{name}": value for name, value in training.carried.items()}
    scalars: dict[str, dict[str, Any]] = {}
    for name, parameter in training.parameters.items():
        for key, value in training.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{name}/{key}"] = value
            else:
                scalars.setdefault(name, {})[key] = value
    record = {"schema_version": _SCHEMA_VERSION, "digest": digest, "optimizer": scalars, "state": asdict(state)}
    save_checkpoint(path, tensors, record)


def restore_state(path: Path, training: Training, digest: str) -> LoopState:
    """Read what ``save_state`` wrote into the training's objects and return the position.

    Raises:
        DataError: ``E-RUN-19`` when the checkpoint belongs to other settings; ``E-CKPT-02`` when it is damaged.
    """
    checkpoint = load_checkpoint(path)
    record = checkpoint.record
    if record.get("digest") != digest or record.get("schema_version") != _SCHEMA_VERSION:
        raise DataError(
            "E-RUN-19",
            what="the saved state of this stage and the command disagree",
            found=f"{path}: settings {record.get('digest', '?')[:12]}",
            expected=f"settings {digest[:12]}",
            fix="repeat the command that began it, or start a new run with --name NAME",
        )
    with torch.no_grad():
        for name, parameter in training.parameters.items():
            parameter.copy_(checkpoint.tensors[f"parameter/{name}"])
        for name, buffer in training.buffers.items():
            buffer.copy_(checkpoint.tensors[f"buffer/{name}"])
        for name, value in training.carried.items():
            value.copy_(checkpoint.tensors[f"carried/{name}"])
    _restore_optimizer(training, checkpoint.tensors, record["optimizer"])
    return LoopState(**record["state"])


def _restore_optimizer(
    training: Training, tensors: Mapping[str, Tensor], scalars: Mapping[str, dict[str, Any]]
) -> None:
    optimizer, names = training.optimizer, {parameter: name for name, parameter in training.parameters.items()}
    state: dict[int, dict[str, Any]] = {}
    # state_dict numbers parameters in the order of the groups.
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(ordered):
        prefix = f"optimizer/{names[parameter]}/"
        entry = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        entry |= scalars.get(names[parameter], {})
        if entry:
            state[number] = entry
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
