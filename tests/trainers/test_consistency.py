"""Stage 2 with slices without labels against a slow literal restatement; its average, boxes, pool and resume."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.inference.precision import SINGLE
from samora_pipeline.models.freezing import Part, freeze
from samora_pipeline.models.global_norm import GlobalBatchNorm
from samora_pipeline.models.samora import Network
from samora_pipeline.paths import resolve_roots
from samora_pipeline.slices.augmentation import apply_geometry
from samora_pipeline.slices.datasets import SliceSource
from samora_pipeline.slices.intensities import apply_intensities
from tests.trainers.runs import final, fold_folder, losses, session, session_on_ranks, short
from tests.trainers.small_data import SCORED, make_dataset
from trainers.consistency_settings import ConsistencySettings
from trainers.loop.memory import loss_of
from trainers.runs.choices import choose_method
from trainers.runs.planning import PlannedRun, plan_run
from trainers.runs.request import Request
from trainers.settings import FINETUNE
from trainers.stages.consistency import Average, ConsistencyTask, draw_boxes, largest_components
from trainers.stages.finetune import Finetune

REQUEST = Request("90", "UNetTrainer", "2cases", consistency=True)
AT_ONCE = ConsistencySettings(start=0.0, full=0.0, confidence=0.4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("consistency"))


@pytest.fixture(scope="module")
def plan(root: Path) -> PlannedRun:
    return plan_run(REQUEST, resolve_roots(str(root)))


def _task(plan: PlannedRun, settings: ConsistencySettings = AT_ONCE, **changes: Any) -> tuple[ConsistencyTask, Network]:
    stage = plan.context.stages[FINETUNE]
    assert isinstance(stage, Finetune)
    network = stage.network(plan.config, plan.context)
    own = replace(stage.settings, consistency=settings, micro_batch=8, **changes)
    freeze(network, frozenset(Part(name) for name in own.learns))
    others = plan.context.read_pool(without=plan.config.selection)
    return ConsistencyTask(plan.config, own, network, plan.context.dataset.slices, 0, others, settings), network


Array = npt.NDArray[Any]


def literal_terms(logits: Array, target: Array, weights: tuple[float, float]) -> float:
    """Cross-entropy and squared Dice over the pixels (B,N,N) of ``target`` that are not -1, pixel by pixel."""
    classes = logits.shape[1]
    entropy, pixels = 0.0, 0
    overlap, squares, truth = np.zeros(classes), np.zeros(classes), np.zeros(classes)
    for sample, labels in zip(logits, target, strict=True):
        for r, c in np.argwhere(labels >= 0):
            p = np.exp(sample[:, r, c] - sample[:, r, c].max())
            p /= p.sum()
            entropy -= float(np.log(p[labels[r, c]]))
            pixels += 1
            one = np.eye(classes)[labels[r, c]]
            overlap += p * one
            squares += p**2
            truth += one
    dice = float(np.mean(1 - (2 * overlap + 1e-5) / (squares + truth + 1e-5)))
    return weights[0] * entropy / max(1, pixels) + weights[1] * dice if pixels else 0.0


@pytest.mark.parametrize("unmixed", [0.5, 0.0])
def test_the_loss_is_the_literal_one(plan: PlannedRun, unmixed: float) -> None:
    settings = replace(AT_ONCE, weight=0.7, unmixed=unmixed, confidence=0.6)
    task, network = _task(plan, settings)
    norms = [part for part in network.modules() if isinstance(part, GlobalBatchNorm)]
    with torch.no_grad():
        network.get_submodule("module.head").get_parameter("weight").mul_(3)
        for norm in norms:
            norm.momentum = 1.0
        network(task.source.images(range(8)))
    task.training()
    teacher = task._average.network
    batch = task.load([0, 3, 5], 4)
    loss, metrics = task.loss(batch, 4)

    images, targets = apply_geometry(batch["images"], batch["targets"], batch["drawn"])
    others, _ = apply_geometry(batch["partners"], None, batch["moves"])
    with torch.no_grad():
        probability = teacher(others).softmax(1)
    guess = probability.argmax(1)
    pictures, labels, guesses = [], [], []
    for i in torch.nonzero(batch["unmixed"]).flatten().tolist():
        pictures.append(apply_intensities(images, batch["drawn"].intensities)[i])
        labels.append(targets[i].clone())
        guesses.append(torch.full_like(targets[i], -1))
    mixed = []
    for inside_is_guessed in (True, False):
        for i in range(3):
            picture, own, theirs = images[i].clone(), targets[i].clone(), torch.full_like(targets[i], -1)
            for r in range(targets.shape[1]):
                for c in range(targets.shape[2]):
                    if bool(batch["boxes"][i, r, c]) == inside_is_guessed:
                        picture[:, r, c] = others[i, :, r, c]
                        own[r, c] = -1
                        sure = float(probability[i, :, r, c].max()) > settings.confidence
                        theirs[r, c] = guess[i, r, c] if sure else -1
            mixed.append(picture)
            labels.append(own)
            guesses.append(theirs)
    pictures += list(apply_intensities(torch.stack(mixed), batch["strong"]))
    with torch.no_grad():
        logits = network(torch.stack(pictures)).double().numpy()
    true, guessed = torch.stack(labels).numpy(), torch.stack(guesses).numpy()
    assert 0 < (guessed >= 0).sum() < guessed.size / 2
    expected = literal_terms(logits, true, (0.5, 0.5)) + 0.7 * literal_terms(logits, guessed, (0.5, 0.5))
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert metrics["guessed_foreground"].item() == pytest.approx(float((guess > 0).float().mean()))
    assert metrics["true_foreground"].item() == pytest.approx(float((targets > 0).float().mean()))
    sure = probability.amax(1) > settings.confidence
    assert metrics["trusted"].item() == pytest.approx(float(sure.float().mean()))


def test_before_its_start_it_is_the_labelled_task(plan: PlannedRun) -> None:
    task, _ = _task(plan, ConsistencySettings(start=0.5, full=0.6))
    batch = task.load([0, 1, 2, 3], 0)
    assert set(batch) == {"images", "targets", "drawn"}
    assert set(task.loss(batch, 0)[1]) == {"cross_entropy", "dice_loss"}


def test_the_weight_rises_in_a_line() -> None:
    settings = ConsistencySettings(weight=0.5, start=0.12, full=0.3)
    shares = (0.0, 0.119, 0.12, 0.21, 0.3, 1.0)
    assert [settings.weight_at(share) for share in shares] == pytest.approx([0, 0, 0, 0.25, 0.5, 0.5])
    assert AT_ONCE.weight_at(0.0) == 0.5


@pytest.mark.parametrize(
    "wrong", [{"decay": 1.2}, {"start": 0.4, "full": 0.3}, {"box": (0.5, 1.5)}, {"confidence": -0.1}, {"unmixed": 2.0}]
)
def test_shares_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="E-SET-04"):
        ConsistencySettings(**wrong)


def test_boxes_are_rectangles_inside_of_the_slice() -> None:
    keys = [f"case/{i}" for i in range(200)]
    boxes = draw_boxes(keys, 50, (0.4, 0.8), seed=0, epoch=1).numpy()
    heights, widths, tops = [], [], []
    for box in boxes:
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        assert box.sum() == len(rows) * len(columns)
        assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        heights.append(len(rows))
        widths.append(len(columns))
        tops.append(rows[0])
    assert (min(heights), max(heights)) == (20, 39) == (min(widths), max(widths))
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.2
    assert min(tops) == 0
    assert max(t + h for t, h in zip(tops, heights, strict=True)) == 50
    again = draw_boxes([keys[7], keys[3]], 50, (0.4, 0.8), seed=0, epoch=1).numpy()
    assert (again == boxes[[7, 3]]).all()
    assert not (draw_boxes(keys, 50, (0.4, 0.8), seed=0, epoch=2).numpy() == boxes).all()
    assert draw_boxes(["a"], 8, (1.0, 1.0), seed=0, epoch=0).all()


class _Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.trained = nn.Linear(3, 3), nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.frozen.requires_grad_(False)


def test_the_average_follows_what_is_trained_and_shares_the_rest() -> None:
    torch.manual_seed(0)
    network: Any = _Toy()
    average = Average(network, ConsistencySettings(decay=0.6))
    expected = {name: value.detach().double().clone() for name, value in network.named_parameters()}
    for step in range(1, 6):
        with torch.no_grad():
            for parameter in (*network.trained.parameters(), *network.norm.parameters()):
                parameter.add_(torch.randn_like(parameter))
            network.norm(torch.randn(4, 3))
        average.after_step(step, {})
        decay = min(0.6, 1 - 1 / (step + 1))
        for name, value in network.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * value.detach().double()
    for name, value in average.network.named_parameters():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
        assert not value.requires_grad
    assert average.network.frozen.weight is network.frozen.weight  # type: ignore[union-attr]
    for own, source in zip(average.network.buffers(), network.buffers(), strict=True):
        assert torch.equal(own, source)
        assert own is not source
    assert not average.network.training
    assert network.training
    assert (network.norm.momentum, network.norm.training) == (0.1, True)
    before = average.network.norm.running_mean.clone()  # type: ignore[union-attr, operator]
    x = torch.randn(5, 3)
    seen = average.network.norm(x)  # type: ignore[operator]
    expected_norm = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
    weight, bias = (dict(average.network.named_parameters())[f"norm.{name}"] for name in ("weight", "bias"))
    torch.testing.assert_close(seen, expected_norm * weight + bias)
    assert torch.equal(average.network.norm.running_mean, before)  # type: ignore[union-attr, arg-type]
    assert set(average.tensors) == {
        *("trained.weight", "trained.bias", "norm.weight", "norm.bias"),
        *("norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "rare_steps"),
    }


def test_guessed_labels_that_collapse_stop_the_training() -> None:
    network: Any = _Toy()
    average = Average(network, ConsistencySettings(patience=3))
    rare, sound = ({"guessed_foreground": share, "true_foreground": 0.1} for share in (0.019, 0.021))
    for values in (rare, rare, sound, {}, rare, rare):
        average.after_step(1, values)
    with pytest.raises(DataError, match="E-TRAIN-03") as caught:
        average.after_step(1, rare)
    assert "1.90%" in caught.value.found


def test_regions_are_guessed_in_their_order(plan: PlannedRun) -> None:
    labels = LabelScheme({"whole": (1, 2), "hole": (2,)}, region_order=(1, 2))
    model = replace(plan.config.model, num_outputs=labels.num_outputs)
    task, _ = _task(replace(plan, config=replace(plan.config, labels=labels, model=model)))
    task.training()
    logits = torch.full((1, 2, 4, 4), -1.0)
    logits[0, 0, :2], logits[0, 1, 1, 1], logits[0, 1, 3] = 3.0, 0.1, 2.0

    def network(images: Tensor) -> Tensor:
        return logits

    task._average.network = network  # type: ignore[assignment]
    guess, trusted = task._guess(torch.zeros(1, 1, 4, 4))
    assert guess[0].tolist() == [[1] * 4, [1, 2, 1, 1], [0] * 4, [2] * 4]
    assert trusted.all()
    task._own = replace(AT_ONCE, confidence=0.6)
    assert (~task._guess(torch.zeros(1, 1, 4, 4))[1]).nonzero().tolist() == [[0, 1, 1]]
    loss, _ = task.loss_of(torch.rand(2, 1, 64, 64), torch.randint(-1, 3, (2, 64, 64)), 0)
    assert torch.isfinite(loss)


def test_scored_and_labelled_slices_are_no_partners(plan: PlannedRun) -> None:
    source = plan.context.read_pool(without=plan.config.selection)
    assert isinstance(source, SliceSource)
    cases = {name.case for name in source.ids}
    assert cases.isdisjoint((*SCORED, *plan.config.selection.cases))
    assert "more_0" in cases
    assert plan.config.pool.key
    assert set(SCORED) <= set(plan.config.pool.excluded)


def test_of_cases_with_single_labelled_slices_the_others_are_partners(root: Path) -> None:
    plan = plan_run(replace(REQUEST, split="6slices"), resolve_roots(str(root)))
    source = plan.context.read_pool(without=plan.config.selection)
    assert isinstance(source, SliceSource)
    labelled = {(case, index) for case, indices in plan.config.selection.slices.items() for index in indices}
    own = {(name.case, name.index) for name in source.ids}
    assert len(labelled) == 6
    assert own.isdisjoint(labelled)
    assert {case for case, _ in labelled} & {case for case, _ in own}


def test_without_anything_unlabelled_it_is_refused(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, unlabelled=0)
    plan = plan_run(replace(REQUEST, split="full"), resolve_roots(str(root)))
    with pytest.raises(DataError, match="E-POOL-09"):
        plan.context.read_pool(without=plan.config.selection)


def test_the_option_is_part_of_the_run() -> None:
    usual = choose_method(replace(REQUEST, consistency=None))
    assert usual.finetune.consistency is None
    assert choose_method(replace(REQUEST, consistency=False)).changes == usual.changes
    with_it = choose_method(replace(REQUEST, assignments=("finetune.consistency.confidence=0.7",)))
    assert with_it.finetune.consistency == ConsistencySettings(confidence=0.7)
    assert with_it.changes == {"consistency": True, "finetune.consistency.confidence": 0.7}
    with pytest.raises(UsageError, match="E-SET-01"):
        choose_method(replace(REQUEST, consistency=None, assignments=("finetune.consistency.confidence=0.7",)))


def test_of_a_guessed_class_the_largest_component_is_kept() -> None:
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    labels[0, :3, :3], labels[0, 6:, 6:], labels[0, 5, 0] = 1, 1, 2
    labels[1, 0, 0], labels[1, 4:6, 4:6] = 2, 2
    expected = labels.clone()
    expected[0, 6:, 6:], expected[1, 0, 0] = 0, 0
    assert torch.equal(largest_components(labels, (1, 2)), expected)
    assert torch.equal(largest_components(labels, ()), labels)


WORDS = ("--set", "finetune.consistency.start=0", "--set", "finetune.consistency.full=0")


def _words(root: Path, name: str, trainer: str = "UNetTrainer") -> list[str]:
    base = [] if trainer == "UNetTrainer" else ["--backbone", "samora_tiny", "--recipe", "none"]
    options = ["--root", str(root), "--device", "cpu", "--debug", "--name", name, "--consistency"]
    return ["90", trainer, "2cases", *options, *base, *short(FINETUNE), *WORDS]


@pytest.mark.parametrize(
    "trainer", ["UNetTrainer", "SAMoraTrainer", pytest.param("HSAMoraTrainer", marks=pytest.mark.slow)]
)
def test_a_killed_training_goes_on_bit_for_bit(root: Path, trainer: str) -> None:
    assert session(_words(root, "whole", trainer)) == 0
    assert session(_words(root, "twice", trainer), at=(FINETUNE, 2, signal.SIGTERM)) == 143
    assert session([*_words(root, "twice", trainer), "-c"], at=(FINETUNE, 4, signal.SIGKILL)) == -signal.SIGKILL
    assert session([*_words(root, "twice", trainer), "-c"]) == 0
    one, other = (final(root, f"{trainer}__2cases__{name}").tensors for name in ("whole", "twice"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    folder = fold_folder(root, f"{trainer}__2cases__whole")
    assert losses(folder) == losses(fold_folder(root, f"{trainer}__2cases__twice"))
    (record,) = (stage for stage in read_json(RunConfig, folder / "config.json").stages if stage.name == FINETUNE)
    assert record.settings["consistency"]["strong"]["noise"] == [0.0, 0.08]


def test_two_ranks_train_as_one(root: Path) -> None:
    """At a rate at which rounding stays small: batch norm and Dice are those of the global batch."""
    slow = ["--set", "finetune.learning_rate=1e-5", "--set", "finetune.warmup=0"]
    assert session([*_words(root, "one"), *slow]) == 0
    assert session_on_ranks(2, [*_words(root, "two"), *slow]) == [0, 0]
    one, two = (losses(fold_folder(root, f"UNetTrainer__2cases__{name}")) for name in ("one", "two"))
    assert one == pytest.approx(two, rel=1e-4)


def test_memory_and_time_are_measured_when_it_takes_part(plan: PlannedRun) -> None:
    task, _ = _task(plan, ConsistencySettings(start=0.5, full=0.6))
    _, metrics = loss_of(task.training(), [0, 1, 2, 3], torch.device("cpu"), SINGLE)
    assert "guessed_loss" in metrics
