"""UA-MT, DTC, MC-Net and CutMix against slow literal restatements of their losses; what they carry, and resuming."""

from __future__ import annotations

import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from samora_pipeline.errors import UsageError
from samora_pipeline.models.freezing import Part, freeze
from samora_pipeline.objectives.signed_distance import signed_distance, signed_distances
from samora_pipeline.paths import resolve_roots
from samora_pipeline.slices.augmentation import apply_augmentation, apply_geometry
from samora_pipeline.slices.intensities import apply_intensities
from tests.trainers.runs import final, fold_folder, losses, session, short
from tests.trainers.small_data import make_dataset
from trainers.consistency_settings import ConsistencySettings
from trainers.loop.loop import Training
from trainers.runs.choices import choose_method
from trainers.runs.planning import PlannedRun, plan_run
from trainers.runs.request import Request
from trainers.semi_supervised_settings import (
    CutMixSettings,
    DTCSettings,
    MCNetSettings,
    SSNetSettings,
    UAMTSettings,
)
from trainers.settings import FINETUNE
from trainers.stages import semi_supervised, ss_net, ua_mt
from trainers.stages.consistency import ConsistencyTask
from trainers.stages.dtc import DTCTask
from trainers.stages.finetune import Finetune
from trainers.stages.labelled import LabelledTask
from trainers.stages.mc_net import MCNetTask
from trainers.stages.ss_net import SSNetTask
from trainers.stages.ua_mt import UAMTTask

Array = npt.NDArray[Any]
EPOCH = 20
# A new network that is sure of nothing.
_PLAIN = ("model.dropout=0,0,0,0,0", "finetune.foreground_prior=none")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("semi_supervised"))


def task_of(root: Path, trainer: str, *words: str, own: Any = None) -> tuple[LabelledTask, Any, Training]:
    """The task of a run, with wider logits than a new network has, and its training."""
    plan: PlannedRun = plan_run(
        Request("90", trainer, "2cases", assignments=(*_PLAIN, *words)), resolve_roots(str(root))
    )
    stage = plan.context.stages[FINETUNE]
    assert isinstance(stage, Finetune)
    if own is not None:
        stage = Finetune(stage.name, replace(stage.settings, consistency=own))
    network: Any = stage.network(plan.config, plan.context)
    with torch.no_grad():
        network.module.head.weight.mul_(4)
    freeze(network, frozenset(Part(name) for name in stage.settings.learns))
    task = stage.task(plan.config, plan.context, network)
    return task, network, task.training()


def inputs(batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    images, targets = apply_augmentation(batch["images"], batch["targets"], batch["drawn"])
    others, _ = apply_augmentation(batch["partners"], torch.zeros_like(batch["targets"]), batch["moves"])
    return images, targets, others


def softmax(logits: Tensor) -> Array:
    raised = np.exp(logits.double().detach().numpy())
    return np.asarray(raised / raised.sum(1, keepdims=True))


def rise(share: float) -> float:
    return math.exp(-5 * (1 - share) ** 2)


def supervised(logits: Array, targets: Array, cross_entropy: float) -> float:
    """Cross-entropy and squared Dice of probabilities (B,K,N,N), class by class."""
    entropy = -np.mean([np.log(logits[b, t, r, c]) for (b, r, c), t in np.ndenumerate(targets)])
    dice = []
    for k in range(logits.shape[1]):
        p, g = logits[:, k], targets == k
        dice.append(1 - (2 * (p * g).sum() + 1e-5) / ((p**2).sum() + g.sum() + 1e-5))
    return float(cross_entropy * entropy + (1 - cross_entropy) * np.mean(dice))


def test_ua_mt_is_the_literal_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noises: list[Tensor] = []

    def drawn(like: Tensor) -> Tensor:
        noises.append(torch.randn_like(like))
        return noises[-1]

    monkeypatch.setattr(ua_mt, "normal_like", drawn)
    task, network, _ = task_of(root, "UAMTTrainer", own=UAMTSettings(first=0.9))
    assert isinstance(task, UAMTTask)
    teacher: Any = task.average.network
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.1)
    batch = task.load([0, 3], EPOCH)
    loss, metrics = task.loss(batch, EPOCH)
    images, targets, others = inputs(batch)
    p = softmax(network(torch.cat((images, others))))
    assert len(noises) == 9
    noisy = [others + torch.clamp(0.1 * noise, -0.2, 0.2) for noise in noises]
    with torch.no_grad():
        q = softmax(teacher(noisy[0]))
        seen = [softmax(teacher(torch.cat(noisy[i : i + 2]))) for i in (1, 3, 5, 7)]
    m = np.mean([one[half] for one in seen for half in (slice(0, 2), slice(2, 4))], axis=0)
    share = EPOCH / 50
    above = below = 0.0
    for b in range(2):
        for r in range(64):
            for c in range(64):
                entropy = -(m[b, :, r, c] * np.log(m[b, :, r, c] + 1e-6)).sum()
                if entropy < (0.9 + 0.1 * rise(share)) * math.log(3):
                    above += ((p[2 + b, :, r, c] - q[b, :, r, c]) ** 2).sum()
                    below += 3
    assert 0 < below < 3 * 2 * 64 * 64
    labelled = supervised(p[:2], targets.numpy(), 0.5)
    assert metrics["unlabelled_loss"].item() == pytest.approx(above / below, rel=1e-3)
    assert loss.item() == pytest.approx(labelled + 0.1 * rise(share) * above / below, rel=1e-4)
    assert metrics["certain"].item() == pytest.approx(below / (3 * 2 * 64 * 64))
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def literal_distance(mask: Array) -> Array:
    """Every pixel against every other one."""
    places = np.argwhere(np.ones_like(mask))
    inside, outside = np.argwhere(mask), np.argwhere(~mask)
    result = np.full(mask.shape, -1.0 if mask.all() else 1.0)
    if len(inside) == 0 or len(outside) == 0:
        return result
    to_inside = np.array([np.sqrt(((inside - place) ** 2).sum(1)).min() for place in places]).reshape(mask.shape)
    to_outside = np.array([np.sqrt(((outside - place) ** 2).sum(1)).min() for place in places]).reshape(mask.shape)
    result = to_inside / to_inside.max() - to_outside / to_outside.max()
    for r, c in inside:
        beside = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
        if any(0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and not mask[y, x] for y, x in beside):
            result[r, c] = 0
    return result


def test_signed_distances_are_the_literal_ones() -> None:
    masks = np.zeros((4, 9, 11), bool)
    masks[0, 2:7, 3:9] = True
    masks[1, :4] = True
    masks[2] = True
    for mask in masks:
        assert signed_distance(mask) == pytest.approx(literal_distance(mask), abs=1e-6)
    targets = torch.from_numpy(masks[:2].astype(np.int64)) * 2
    found = signed_distances(targets, 3)
    assert found.shape == (2, 2, 9, 11)
    assert (found[:, 0] == 1).all()
    assert found[1, 1].numpy() == pytest.approx(signed_distance(masks[1]))


def test_dtc_is_the_literal_one(root: Path) -> None:
    # A step so flat that every distance reaches both tasks.
    task, network, _ = task_of(root, "DTCTrainer", own=DTCSettings(steepness=3.0))
    assert isinstance(task, DTCTask)
    batch = task.load([1, 4], EPOCH)
    loss, metrics = task.loss(batch, EPOCH)
    images, targets, others = inputs(batch)
    taken: list[Tensor] = []
    hook = network.module.head.register_forward_pre_hook(lambda _module, given: taken.append(given[0]))
    p = softmax(network(torch.cat((images, others))))
    hook.remove()
    weight, bias = (value.detach().double().numpy() for value in task.head.parameters())
    z = np.tanh(
        np.einsum("kw,bwrc->bkrc", weight[:, :, 0, 0], taken[0].detach().double().numpy()) + bias[None, :, None, None]
    )
    t = np.array([[signed_distance(one == k) for k in (1, 2)] for one in targets.numpy()])
    distance = np.mean((z[:2] - t) ** 2)
    agreement = np.mean((1 / (1 + np.exp(3 * z)) - p[:, 1:]) ** 2)
    assert metrics["distance_loss"].item() == pytest.approx(distance, rel=1e-4)
    expected = supervised(p[:2], targets.numpy(), 0.0) + 0.3 * distance + rise(EPOCH / 50) * agreement
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert task.head.weight.grad is not None


def test_mc_net_is_the_literal_one(root: Path) -> None:
    task, network, _ = task_of(root, "MCNetTrainer")
    assert isinstance(task, MCNetTask)
    with torch.no_grad():
        task.head.head.weight.mul_(4)
    batch = task.load([1, 4], EPOCH)
    loss, metrics = task.loss(batch, EPOCH)
    images, targets, others = inputs(batch)
    module = network.module
    # The U-Net once more, with the other decoder's parts in place of its own.
    x = torch.cat((images, others))
    first = softmax(module(x))
    own = module.up, module.join, module.head
    module.up, module.join, module.head = task.head.up, task.head.join, task.head.head
    second = softmax(module(x))
    module.up, module.join, module.head = own

    def sharp(p: Array) -> Array:
        return np.asarray(p**10 / (p**10 + (1 - p) ** 10))

    agreement = np.mean((first - sharp(second)) ** 2) + np.mean((second - sharp(first)) ** 2)
    both = supervised(first[:2], targets.numpy(), 0.0) + supervised(second[:2], targets.numpy(), 0.0)
    assert metrics["unlabelled_loss"].item() == pytest.approx(agreement, rel=1e-3)
    assert loss.item() == pytest.approx(both + 0.1 * rise(EPOCH / 50) * agreement, rel=1e-4)
    assert not np.allclose(first, second, atol=1e-2)
    assert isinstance(task.head.up[0][1], nn.Upsample)  # type: ignore[index]


def test_ss_net_is_the_literal_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    normals: list[Tensor] = []

    def drawn(like: Tensor) -> Tensor:
        normals.append(torch.randn_like(like))
        return normals[-1]

    monkeypatch.setattr(ss_net, "normal_like", drawn)
    task, network, training = task_of(root, "SSNetTrainer", own=SSNetSettings(pixels=40, memory=3))
    assert isinstance(task, SSNetTask)
    batch = task.load([1, 4], EPOCH)
    with torch.no_grad():
        # The labels of most pixels are guessed, so that there is something to remember.
        network(task.source.images(range(8)))
        task._found = [(torch.rand(3, 5), torch.randn(3, 5, 32))]
        task._found[0][0][2, 2:] = torch.inf
    task.after_step(1, {})
    assert task.remembered.tolist() == [0, 3, 2]
    memory = task.memory.clone()
    loss, metrics = task.loss(batch, EPOCH)
    images, targets, others = inputs(batch)
    x, n = torch.cat((images, others)), 64
    taken: list[Tensor] = []
    hook = network.module.head.register_forward_pre_hook(lambda _module, given: taken.append(given[0]))
    q = network(x).softmax(1).detach()
    hook.remove()

    def dice(p: Tensor) -> Tensor:
        classes = [1 - 2 * (p[:, k] * q[:, k]).sum() / ((p[:, k] ** 2).sum() + (q[:, k] ** 2).sum()) for k in range(3)]
        return torch.stack(classes).mean()

    d = torch.cat(normals)
    d = 0.5 * torch.erf(d / math.sqrt(2))
    d = torch.stack([one / one.square().sum().sqrt() for one in d]).requires_grad_()
    (slope,) = torch.autograd.grad(dice(network(x + 10 * d).softmax(1)), d)
    worst = torch.stack([one / one.square().sum().sqrt() for one in slope])
    smoothness = dice(network(x + 6 * worst).softmax(1)).item()
    assert metrics["smoothness_loss"].item() == pytest.approx(smoothness, rel=1e-3)

    places = (batch["pixels"].double() * n * n).long()
    labels = torch.cat((targets, q[2:].argmax(1))).flatten(1).gather(1, places)
    z = torch.stack([taken[0][i].flatten(1)[:, places[i]].T for i in range(4)]).flatten(0, 1)
    described = task.head.predict(task.head.project(z)).view(4, 40, 32)
    separation = 0.0
    for half in (slice(0, 2), slice(2, 4)):
        for label in (1, 2):
            rows = described[half][labels[half] == label]
            kept = memory[label, : int(task.remembered[label])]
            scores = task.head.scores[label](described[half].flatten(0, 1))[:, 0].sigmoid()
            scores = scores[labels[half].flatten() == label]
            total = 0.0
            for row, score in zip(rows, scores, strict=True):
                far = [1 - float(torch.cosine_similarity(row, one, dim=0)) for one in kept]
                total += float(score) * sum(far) / len(far)
            separation += total / max(1e-10, float(scores.sum())) / 3
    assert separation > 0
    assert metrics["separation_loss"].item() == pytest.approx(separation, rel=1e-2)
    expected = supervised(q[:2].double().numpy(), targets.numpy(), 0.0)
    expected += 0.1 * rise(EPOCH / 50) * (smoothness + 0.1 * separation)
    assert loss.item() == pytest.approx(expected, rel=1e-3)
    loss.backward()
    assert set(training.carried) == {"memory", "remembered"}


def test_ss_net_remembers_what_scores_lowest_and_is_seen_right(root: Path) -> None:
    task, _, _ = task_of(root, "SSNetTrainer", own=SSNetSettings(memory=2))
    assert isinstance(task, SSNetTask)
    features = torch.randn(1, 9, 16)
    truth = torch.tensor([[0, 1, 1, 1, 2, 2, 1, 0, 1]])
    guess = torch.tensor([[0, 1, 1, 0, 2, 1, 1, 1, 1]])
    task._found = [task._candidates(features, guess, truth)]
    task.after_step(1, {})
    assert task.remembered.tolist() == [0, 2, 1]
    task.head.eval()
    with torch.no_grad():
        projected = task.head.project(features[0])
        right = [1, 2, 6, 8]
        scores = task.head.scores[1](projected[right])[:, 0]
    lowest = [right[place] for place in scores.argsort()[:2].tolist()]
    torch.testing.assert_close(task.memory[1], projected[lowest])
    torch.testing.assert_close(task.memory[2, 0], projected[4])


def test_cutmix_adds_slices_mixed_of_two_without_labels(root: Path) -> None:
    settings = CutMixSettings(start=0.0, full=0.0, confidence=0.4, unmixed=0.0)
    task, network, _ = task_of(root, "UAMTTrainer", own=settings)
    assert isinstance(task, ConsistencyTask)
    batch = task.load([0, 3], EPOCH)
    assert not torch.equal(batch["seconds"], batch["partners"])
    shown: list[Tensor] = []
    network.register_forward_pre_hook(lambda _module, given: shown.append(given[0]))
    seen: list[tuple[Tensor, Tensor]] = []
    terms = task.loss_of_stages

    def noted(stages: tuple[Tensor, ...], targets: Tensor, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append((stages[0], targets))
        return terms(stages, targets, epoch)

    task.loss_of_stages = noted  # type: ignore[method-assign]
    task.loss(batch, EPOCH)
    others, _ = apply_geometry(batch["partners"], None, batch["moves"])
    seconds, _ = apply_geometry(batch["seconds"], None, batch["second_moves"])
    mixed = others.clone()
    for i, r, c in np.argwhere(batch["second_boxes"].numpy()):
        mixed[i, :, r, c] = seconds[i, :, r, c]
    assert torch.equal(shown[0][-2:], apply_intensities(mixed, batch["second_strong"]))
    (_, labels), (_, guesses) = seen
    assert (labels[-2:] == -1).all()
    own, _ = task._guess(others)
    theirs, _ = task._guess(seconds)
    for i in range(2):
        inside = batch["second_boxes"][i]
        for guess, where in ((theirs[i], inside), (own[i], ~inside)):
            known = where & (guesses[-2:][i] >= 0)
            assert known.any()
            assert torch.equal(guesses[-2:][i][known], guess[known])


def test_a_way_is_chosen_by_its_name() -> None:
    request = Request("90", "UNetTrainer", "2cases", assignments=("finetune.consistency.kind=dtc",))
    method = choose_method(replace(request, assignments=(*request.assignments, "finetune.consistency.weight=0.5")))
    assert method.finetune.consistency == DTCSettings(weight=0.5)
    assert method.changes["consistency"] == "dtc"
    plain = replace(request, assignments=("finetune.consistency.kind=copy_paste",))
    assert choose_method(plain).finetune.consistency == ConsistencySettings()
    assert choose_method(Request("90", "MCNetTrainer", "2cases")).finetune.consistency == MCNetSettings()
    with pytest.raises(UsageError, match="E-NAME-01"):
        choose_method(replace(request, assignments=("finetune.consistency.kind=dct",)))
    with pytest.raises(UsageError, match="E-ARG-23"):
        choose_method(replace(request, taught_by=("some",)))


@pytest.mark.parametrize("wrong", [{"ramp": 0.0}, {"ramp": 1.5}, {"weight": -1.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="E-SET-04"):
        UAMTSettings(**wrong)


def test_the_weight_rises_as_published() -> None:
    settings = UAMTSettings(weight=1.0, ramp=0.4)
    found = [settings.weight_at(share) for share in (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)]
    assert found == pytest.approx([0.0067, 0.060, 0.287, 0.732, 1.0, 1.0], abs=5e-4)


def test_the_mean_is_over_what_counts() -> None:
    values, where = torch.arange(6.0).view(2, 3), torch.tensor([[True, False, False], [True, True, False]])
    assert semi_supervised.batch_mean(values).item() == 2.5
    assert semi_supervised.batch_mean(values, where).item() == pytest.approx((0 + 3 + 4) / 3)
    assert semi_supervised.batch_mean(values, torch.zeros_like(where)).item() == 0


@pytest.mark.parametrize(
    "trainer",
    [pytest.param(name, marks=pytest.mark.slow) for name in ("UAMTTrainer", "DTCTrainer", "SSNetTrainer")]
    + ["MCNetTrainer"],
)
def test_a_killed_run_goes_on_bit_for_bit(root: Path, trainer: str) -> None:
    def words(name: str) -> list[str]:
        command = ["90", trainer, "2cases", "--root", str(root), "--device", "cpu", "--name", name]
        return [*command, *short("finetune")]

    assert session(words("whole")) == 0
    assert session(words("killed"), at=(FINETUNE, 3, signal.SIGTERM)) == 143
    assert session([*words("killed"), "-c"]) == 0
    whole, killed = (final(root, f"{trainer}__2cases__{name}").tensors for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert not [name for name in whole if name.startswith("head.")]
    first, second = (losses(fold_folder(root, f"{trainer}__2cases__{name}")) for name in ("whole", "killed"))
    assert first == second


def test_the_small_backbone_learns_the_same_ways(root: Path) -> None:
    words = ["90", "SAMoraTrainer", "2cases", "--root", str(root), "--device", "cpu", "--backbone", "samora_small"]
    for kind in ("dtc", "mc_net", "ss_net"):
        options = ["--set", f"finetune.consistency.kind={kind}", "--name", kind]
        assert session([*words, *options, *short("finetune")]) == 0
        assert np.isfinite(losses(fold_folder(root, f"SAMoraTrainer__2cases__{kind}"))).all()
