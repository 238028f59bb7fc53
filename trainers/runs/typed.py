"""What is mistyped is refused here, before torch is imported and before any scan or pool is read."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from samora_pipeline.contracts.run import Choice
from samora_pipeline.contracts.splits import check_split
from samora_pipeline.errors import UsageError
from samora_pipeline.paths import Roots
from trainers.methods import Trainer
from trainers.pool.datasets import open_dataset
from trainers.recipes import SCRATCH
from trainers.runs.choices import BACKBONE, BACKBONE_WEIGHTS, RECIPE, choose_method
from trainers.runs.request import Request, find_trainer, resolve
from trainers.settings import BOOTSTRAP, STAGE_NAMES


def check_typed(request: Request, roots: Roots) -> None:
    """Check every name of a request: trainer, preset, recipe, levels, stage, settings, backbone, dataset, fold, split.

    Raises:
        UsageError: see ``choices.choose_method``; ``E-FOLD-01``.
        DataError: see ``pool.datasets.open_dataset``; ``E-SPLIT-04``.
    """
    _check_method(request)
    splits = open_dataset(request.dataset, roots).splits()
    if request.fold is not None:
        splits.fold(request.fold)
    check_split(splits, request.split)


def _check_method(request: Request) -> None:
    """Settings depend on what the machine will choose: refused is what none of the possible choices takes.

    A choice whose run has no such stage leaves a setting unused; it counts only where all choices do.
    """
    request = resolve(request)
    outcomes = [_outcome(request, chosen) for chosen in _possible(find_trainer(request.trainer))]
    fewest = min(unused for unused, _ in outcomes)
    errors = [error for unused, error in outcomes if unused == fewest]
    if errors[0] is not None and all(errors):
        raise errors[0]


def _outcome(request: Request, chosen: Mapping[str, Choice]) -> tuple[int, UsageError | None]:
    """How many settings a choice leaves unused, more than all where it is none of the trainer's, and why it refuses."""
    try:
        stages = choose_method(replace(request, assignments=()), chosen).stages
    except UsageError as error:
        return len(request.assignments) + 1, error
    unused = [one for one in request.assignments if one.partition(".")[0] in set(STAGE_NAMES) - set(stages)]
    try:
        choose_method(request, chosen)
    except UsageError as error:
        return len(unused), error
    return len(unused), None


def _possible(trainer: Trainer) -> Iterator[Mapping[str, Choice]]:
    yield {}
    yield {BACKBONE: Choice(trainer.small_backbone, ""), BACKBONE_WEIGHTS: Choice(BOOTSTRAP, "")}
    if trainer.whole_backbone is not None:
        yield {BACKBONE: Choice(trainer.whole_backbone, "")}
    yield {RECIPE: Choice(SCRATCH, "")}
