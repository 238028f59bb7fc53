"""What nobody typed: backbone, recipe, input size and length, from the device, the files and the data.

Every value is a ``Choice`` with its reason. A run keeps its choices in config.json, and they hold on every later start,
on whatever machine; what is typed is never replaced. What changes no result, the slices at a time, is no choice of the
run: every stage measures it when it starts (``trainers.loop.memory``).
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.run import Choice
from samora_pipeline.models.catalog import is_small, is_trained_whole
from samora_pipeline.resources import memory
from samora_pipeline.weights.catalog import ASSETS, Asset
from samora_pipeline.weights.download import reachable
from samora_pipeline.weights.records import read_record
from trainers.methods import Trainer
from trainers.recipes import NO_PRETRAINING, RECIPES, SCRATCH
from trainers.runs.choices import BACKBONE, BACKBONE_WEIGHTS, CONSISTENCY, MODEL, RECIPE, Method
from trainers.runs.request import Request, choose_recipe, find_trainer
from trainers.settings import BOOTSTRAP, LEVEL_OF, RANDOM_WEIGHTS, TeacherSettings

INPUT_SIZE = f"{MODEL}.input_size"
MINUTES, MINUTES_UNLABELLED = 10.0, 30.0
"""of training on a CPU where nothing is typed, and with slices without labels, which cost four times a step (ours)"""
_PUBLISHED_SIZE = 224  # Table 8
# Ours. On 35 x 51 pixels 128 was three times cheaper than 224, and better; half of the slice keeps the small organs of
# an abdomen of 512 pixels within what a CPU trains in minutes.
_SMALLEST_SIZE, _SIZE_STEP = 128, 32
_MOSTLY_LABELLED = 0.5


@dataclass(frozen=True)
class Machine:
    """What a run can use here: its ``device``, the free memory there in bytes, and the folder of public weights.

    ``accepts``: whether non-commercial licences were accepted with ``--accept-licence``.
    """

    device: torch.device
    memory: int
    weights: Path
    accepts: bool = False

    @property
    def has_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"


def this_machine(device: torch.device, weights: Path, *, accepts: bool) -> Machine:
    """The machine of this process, with the memory that is free now."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory().value
    return Machine(device, free, weights, accepts)


def choose_base(trainer: Trainer, request: Request, machine: Machine) -> dict[str, Choice]:
    """Choose backbone, its weights and the recipe where nothing is typed.

    Args:
        trainer: the method.
        request: what was typed, presets resolved.
        machine: where the run starts.

    Returns:
        The choices by name; none of them for what was typed, or for a network that is not built on a backbone.
    """
    if trainer.network is not None:
        return {}
    choices: dict[str, Choice] = {}
    if request.backbone is None and request.backbone_weights is None:
        choices[BACKBONE] = _backbone(trainer, machine, experts=_names_experts(request))
        if _must_be_made(str(choices[BACKBONE].value)):
            why = "no file of this backbone is packaged; it is trained on the pool first"
            choices[BACKBONE_WEIGHTS] = Choice(BOOTSTRAP, why)
    if request.recipe is None:
        backbone = str(choices[BACKBONE].value) if BACKBONE in choices else request.backbone or trainer.backbone
        choices[RECIPE] = _recipe(trainer, backbone, machine)
    return choices


def choose_input_size(plans: Plans, sides: Sequence[int], *, small: bool) -> Choice:
    """The side in pixels: the dataset's preference, the published one, or, of a ``small`` network, from the data.

    ``sides``: the longer side of the slices of each case, in pixels.
    """
    if plans.input_size.value is not None:
        return Choice(plans.input_size.value, plans.input_size.why)
    if not small:
        return Choice(_PUBLISHED_SIZE, "the published setting (Table 8)")
    side = statistics.median(sides)
    size = min(_PUBLISHED_SIZE, max(_SMALLEST_SIZE, round(side / 2 / _SIZE_STEP) * _SIZE_STEP))
    return Choice(
        size,
        f"half of the median slice ({side:g} pixels) in steps of {_SIZE_STEP}, from {_SMALLEST_SIZE} to "
        f"{_PUBLISHED_SIZE}; 224 for all belongs to the paper's backbones",
    )


def choose_minutes(request: Request, machine: Machine, chosen: Mapping[str, Choice]) -> float | None:
    """The time budget of training in minutes; None where the settings' own lengths hold.

    A budget applies where it is typed, and on a CPU where the backbone was chosen too.
    """
    if request.minutes is not None or request.fast:
        return None if request.fast else request.minutes
    automatic = BACKBONE in chosen and is_small(str(chosen[BACKBONE].value))
    usual = MINUTES_UNLABELLED if CONSISTENCY in chosen and chosen[CONSISTENCY].value else MINUTES
    return usual if automatic and not machine.has_gpu else None


def choose_consistency(request: Request, method: Method, labelled: float) -> dict[str, Choice]:
    """Choose whether slices without labels take part in fine-tuning, where it is not typed and the base is ours.

    Args:
        request: what was typed.
        method: what it says about the method; one on public weights, or without a base, keeps its own settings.
        labelled: the share of the training slices that have labels in this run.

    Returns:
        The choice by name, or none.
    """
    if not method.from_random or request.consistency is not None or request.taught_by:
        return {}
    if labelled > _MOSTLY_LABELLED:
        return {CONSISTENCY: Choice(False, f"{labelled:.0%} of the training slices have labels")}
    if request.minutes is not None and request.minutes < MINUTES_UNLABELLED:
        why = f"less than {MINUTES_UNLABELLED:g} minutes: in a short training labels alone give more"
        return {CONSISTENCY: Choice(False, why)}
    why = f"{1 - labelled:.0%} of the training slices have no labels; the base learns from them too"
    return {CONSISTENCY: Choice(True, why)}


def _names_experts(request: Request) -> bool:
    """Whether a recipe that makes experts, levels, or settings of experts and their fusion are typed."""
    expert_settings = (f"{MODEL}.fusion", f"{MODEL}.lora_rank", f"{MODEL}.decoder", *LEVEL_OF)
    typed = any(assignment.startswith(expert_settings) for assignment in request.assignments)
    return request.recipe not in (None, NO_PRETRAINING) or request.levels is not None or typed


def _backbone(trainer: Trainer, machine: Machine, *, experts: bool) -> Choice:
    paper = trainer.backbone
    small = trainer.small_backbone if experts else trainer.whole_backbone or trainer.small_backbone
    lost = f"; gives up the public weights of {paper}, on which the paper's scores rest"
    if not machine.has_gpu:
        return Choice(small, f"no GPU: trained in minutes on a CPU{lost}")
    asset = ASSETS[paper]
    fitted = f"as many slices at a time as fit into {machine.memory / 2**30:.0f} GiB"
    if asset.path(machine.weights).is_file():
        return Choice(paper, f"the paper's; its weights are in {machine.weights}; {fitted}")
    if asset.fetchable and reachable(asset.url):
        return Choice(paper, f"the paper's; its weights will be fetched ({asset.length}); {fitted}")
    return Choice(small, f"the weights of {paper} are not in {machine.weights} and cannot be fetched{lost}")


def _must_be_made(backbone: str) -> bool:
    """Whether a backbone of ours has no file and needs one."""
    return is_small(backbone) and not is_trained_whole(backbone) and backbone not in ASSETS


def _recipe(trainer: Trainer, backbone: str, machine: Machine) -> Choice:
    """The default recipe where its teachers can be had, else the richest that needs none of what is missing."""
    usual = choose_recipe(trainer, None, small=is_small(backbone), whole=is_trained_whole(backbone))
    if len(trainer.recipes) == 1:
        return Choice(usual, "the only recipe of this trainer")
    if is_trained_whole(backbone):
        return Choice(usual, "the base is trained with the labels: there is nothing to train experts on before")
    if is_small(backbone):
        return Choice(usual, "each level by its own objective: small teachers have no public weights to give")
    absent = _absent(RECIPES[usual].stages.values(), machine)
    if not absent:
        return Choice(usual, "the paper's; the weights of its teachers can be had")
    ways = " && ".join(asset.way for asset in absent)
    return Choice(
        SCRATCH,
        f"{', '.join(asset.name for asset in absent)} cannot be had (licence not accepted, or no network); gives up "
        f"the teachers of Table 7. With them: {ways}, or --accept-licence",
    )


def refused(request: Request, machine: Machine) -> list[Asset]:
    """The files with which another recipe would be chosen, if only their licences were accepted."""
    trainer = find_trainer(request.trainer)
    chosen, richest = (
        choose_base(trainer, request, each).get(RECIPE) for each in (machine, replace(machine, accepts=True))
    )
    if chosen is None or richest is None or chosen.value == richest.value:
        return []
    return _absent(RECIPES[str(richest.value)].stages.values(), machine)


def _absent(stages: Iterable[object], machine: Machine) -> list[Asset]:
    """The files of teachers that are not there and will not be fetched: licence not accepted, or no network."""
    names = dict.fromkeys(stage.weights for stage in stages if isinstance(stage, TeacherSettings))
    assets = [ASSETS[name] for name in names if name != RANDOM_WEIGHTS]
    return [asset for asset in assets if not _available(asset, machine)]


def _available(asset: Asset, machine: Machine) -> bool:
    path = asset.path(machine.weights)
    if not path.is_file():
        return (asset.fetchable or machine.accepts) and reachable(asset.url)
    record = read_record(path)
    return not asset.non_commercial or machine.accepts or (record is not None and record.accepted)
