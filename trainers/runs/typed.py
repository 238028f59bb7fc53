"""What is mistyped is refused here, before torch is imported and before any scan or pool is read."""

from collections.abc import Iterator, Mapping

from samora_pipeline.contracts.run import Choice
from samora_pipeline.contracts.splits import check_split
from samora_pipeline.errors import UsageError
from samora_pipeline.paths import Roots
from trainers.methods import SCRATCH, Trainer
from trainers.pool.datasets import open_dataset
from trainers.runs.choices import BACKBONE, RECIPE, choose_method
from trainers.runs.request import Request, find_trainer


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
    """Settings depend on what the machine will choose: refused is what fits none of the possible choices."""
    errors = []
    for chosen in _possible(find_trainer(request.trainer)):
        try:
            choose_method(request, chosen)
        except UsageError as error:
            errors.append(error)
        else:
            return
    raise errors[0]


def _possible(trainer: Trainer) -> Iterator[Mapping[str, Choice]]:
    yield {}
    yield {BACKBONE: Choice(trainer.small_backbone, "")}
    yield {RECIPE: Choice(SCRATCH, "")}
