"""Where a training stands, and the file it is kept in: enough to go on as if nothing had happened.

No state of a random generator is stored: every step is seeded from (seed, stage, step) and every sample from (seed,
epoch, sample), so the position alone determines what comes next, on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from samora_pipeline.contracts.checkpoints import load_checkpoint, save_checkpoint
from samora_pipeline.errors import DataError
from samora_pipeline.run_log import Line

if TYPE_CHECKING:
    from trainers.loop.loop import Training

_SCHEMA_VERSION = 1


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
    """Write parameters, buffers, the optimizer's tensors by parameter name and the position, atomically."""
    tensors: dict[str, Tensor] = {f"parameter/{name}": value for name, value in training.parameters.items()}
    tensors |= {f"buffer/{name}": value for name, value in training.buffers.items()}
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
