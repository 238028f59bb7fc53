"""What the command line asked for, and the checks that need neither data nor torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from samora_pipeline.contracts.level import Level
from samora_pipeline.errors import UsageError
from samora_pipeline.registry import nearest
from trainers.methods import TRAINERS, Trainer
from trainers.settings import STAGE_NAMES


@dataclass(frozen=True)
class Request:
    """The arguments of ``samora_train``; None stands for a default that depends on the others."""

    dataset: str
    trainer: str
    split: str
    fold: str | None = None
    recipe: str | None = None
    stage: str | None = None
    unlabeled: tuple[str, ...] = ()
    levels: tuple[str, ...] | None = None
    transductive: bool = False
    exclude_leaks: bool = False
    allow_leak: tuple[str, ...] = ()
    backbone: str | None = None
    backbone_weights: str | None = None
    seed: int = 0
    name: str | None = None
    assignments: tuple[str, ...] = ()
    preset: str | None = None
    resume: bool = False
    fast: bool = False


def find_trainer(name: str) -> Trainer:
    """Return the trainer called ``name``.

    Raises:
        UsageError: ``E-ARG-03``, which also explains the order of the arguments to those who know another tool's.
    """
    try:
        return TRAINERS.get(name)()
    except UsageError as error:
        raise UsageError(
            "E-ARG-03",
            name=name,
            names=nearest(name, TRAINERS.names()),
            names2=", ".join(TRAINERS.names()),
            found=error.found if ":" in name else name,
        ) from error


def choose_recipe(trainer: Trainer, asked: str | None, *, small: bool) -> str:
    """Return the recipe, the trainer's default for the backbone where none is asked for.

    Raises:
        UsageError: ``E-RECIPE-01`` unknown, or not the trainer's.
    """
    if asked is None:
        return trainer.default_recipe(small=small)
    if asked in trainer.recipes:
        return asked
    raise UsageError(
        "E-RECIPE-01",
        name=type(trainer).__name__,
        asked=asked,
        recipes=nearest(asked, list(trainer.recipes)),
        recipes2=", ".join(trainer.recipes),
        found=asked,
    )


def choose_levels(trainer: Trainer, asked: tuple[str, ...] | None) -> tuple[Level, ...]:
    """Return the levels in their order, all of the trainer's by default.

    Raises:
        UsageError: ``E-ARG-06`` a level that the trainer does not have, or none at all.
    """
    if asked is None:
        return trainer.levels
    known = [level.value for level in trainer.levels]
    wrong = [name for name in asked if name not in known]
    if wrong or not asked:
        raise UsageError(
            "E-ARG-06",
            name=type(trainer).__name__,
            found=", ".join(wrong) or "nothing",
            expected=f"{(nearest(wrong[0], known) if wrong else '')}some of {','.join(known)}"
            if known
            else "no experts",
            fix=f"--levels {','.join(known)}" if known else "the same command without --levels",
        )
    return tuple(level for level in trainer.levels if level.value in asked)


def check_stage(stage: str | None, own: Iterable[str] = ()) -> None:
    """Refuse a ``--stage`` that does not exist, and is none of the method's ``own`` (``E-STAGE-01``)."""
    known = list(dict.fromkeys((*STAGE_NAMES, *own)))
    if stage is not None and stage not in known:
        raise UsageError(
            "E-STAGE-01",
            stage=stage,
            stage_names=nearest(stage, known),
            stage_names2=", ".join(known),
            found=stage,
        )
