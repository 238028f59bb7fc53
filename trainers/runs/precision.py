"""The precision of a run: chosen when it is first started, kept in config.json with its reason, the same ever after."""

from functools import partial
from typing import Any

import torch

from samora_pipeline import distributed
from samora_pipeline.contracts.run import Choice, RunConfig
from samora_pipeline.inference.precision import SINGLE, Arithmetic, Precision, pick_arithmetic
from samora_pipeline.models.assembly import build_network

PRECISION = "precision"


def choose_precision(
    asked: Precision, device: torch.device | None, config: RunConfig, micro_batch: int, existing: RunConfig | None
) -> tuple[Arithmetic, dict[str, Choice]]:
    """Settle the precision of all stages of a run.

    Args:
        asked: what the command says.
        device: where the run is trained; None: it is only described, and nothing is timed.
        config: the run, whose network is what is timed.
        micro_batch: slices on one device at a time.
        existing: the run as it was begun. What it chose stays, so that a resumed run is the same run. One without a
            choice was begun by a version that had bf16 on CUDA and single precision elsewhere.

    Returns:
        The precision, and the choice to be recorded (empty: there is none to record).
    """
    chosen = existing.choices.get(PRECISION) if existing is not None else None
    if asked != "auto":
        arithmetic = pick_arithmetic(device or torch.device("cpu"), asked)
        return arithmetic, {PRECISION: Choice(asked, arithmetic.why)}
    if chosen is not None:
        return _as_chosen(chosen), {PRECISION: chosen}
    if device is None:
        return SINGLE, {}
    if existing is not None:
        return pick_arithmetic(device), {}
    shape = (micro_batch, config.model.in_channels, *config.model.input_shape)
    with distributed.alone():  # a batch norm over ranks would wait for ranks that time another number of rounds
        arithmetic = pick_arithmetic(device, "auto", partial(build_network, config.model), shape, training=True)
    choice = Choice(arithmetic.name, arithmetic.why)
    if distributed.world_size() > 1 and device.type == "cpu":
        choice = _of_main_rank(choice)
    return _as_chosen(choice), {PRECISION: choice}


def _as_chosen(choice: Choice) -> Arithmetic:
    asked: Any = choice.value
    return Arithmetic(pick_arithmetic(torch.device("cpu"), asked).dtype, choice.why)


def _of_main_rank(own: Choice) -> Choice:
    """Ranks time for themselves, and all take what the main one found."""
    vote = float(distributed.is_main() and own.value == "bf16")
    value = "bf16" if distributed.sum_over_ranks(torch.tensor([vote])).item() > 0 else "fp32"
    return own if own.value == value else Choice(value, "as timed by the main process")
