"""Losses and gradients of cut batches against the uncut one, in float64, and against slow restatements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from samora_pipeline import batch_parts, distributed
from samora_pipeline.batch_parts import Part, WholeBatch
from samora_pipeline.models.global_norm import GlobalBatchNorm
from samora_pipeline.objectives.contrastive import nt_xent
from samora_pipeline.objectives.features import soft_dice
from samora_pipeline.objectives.segmentation import segmentation_loss
from tests.trainers.processes import on_ranks
from tests.trainers.toy import loop_context
from trainers.loop.accumulation import Accumulation
from trainers.loop.loop import Training

BATCH, WIDTH, SIDE, CLASSES = 12, 5, 6, 3
TEMPERATURE = 0.2
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
REGIONS = torch.tensor([[False, True, True], [False, False, True]])


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def inputs() -> tuple[Tensor, Tensor]:
    """Slices (B,D,h,w) of very different content, and their labels; some pixels are ignored."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, WIDTH, SIDE, SIDE, generator=generator) * torch.linspace(0.1, 3, BATCH).view(
        -1, 1, 1, 1
    )
    labels = torch.randint(-1, CLASSES, (BATCH, SIDE, SIDE), generator=generator)
    labels[BATCH // 2 :] = labels[BATCH // 2 :].clamp(max=0)  # parts see different classes
    return images, labels


def contrast(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    first, second = (network(view).mean(dim=(2, 3)) for view in (images, images.flip(-1) * 0.9))
    return nt_xent(first, second, temperature=TEMPERATURE).loss


def dice(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return segmentation_loss(network(images), labels, cross_entropy=0.2, dice=0.8).loss


def regions(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return segmentation_loss(network(images)[:, :2], labels, cross_entropy=0.2, dice=0.8, regions=REGIONS).loss


def intensities(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return soft_dice(network(images).sigmoid(), images[:, :CLASSES].sigmoid())


LOSSES: dict[str, Loss] = {"contrast": contrast, "dice": dice, "regions": regions, "intensities": intensities}


class Layers(nn.Module):
    """A norm by sample and noise that belongs to samples, whose strength follows from the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.enter, self.leave = nn.Conv2d(WIDTH, 8, 1), nn.Conv2d(8, CLASSES, 1)
        self.norm = nn.GroupNorm(1, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.enter(x)).tanh()
        y = batch_parts.dropout(y + 0.1 * batch_parts.normal_like(y), 0.2)
        logits: Tensor = self.leave(y)
        return logits


def training(network: nn.Module, loss: Loss, **changes: object) -> Training:
    images, labels = inputs()
    fields: dict[str, object] = {
        "stage": "parts",
        "parameters": dict(network.named_parameters()),
        "buffers": dict(network.named_buffers()),
        "optimizer": torch.optim.SGD(network.parameters()),
        "learning_rate": lambda step: 0.0,
        "batches": lambda epoch: [list(range(BATCH))],
        "load": lambda indices, epoch: {"images": images[indices], "labels": labels[indices]},
        "loss": lambda batch, epoch: (loss(network, batch["images"], batch["labels"]), {}),
        "epochs": 1,
        "micro_batch": None,
        "coupled": True,
    }
    return Training(**{**fields, **changes})  # type: ignore[arg-type]


def gradients(given: Training, tmp_path: Path) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the batch, in as many parts as the micro-batch asks for."""
    kept = {name: value.clone() for name, value in given.buffers.items()}

    def restore() -> None:
        for name, value in given.buffers.items():
            value.copy_(kept[name])

    accumulation, batch = Accumulation(given, loop_context(tmp_path), restore), list(range(BATCH))
    parts = accumulation.parts(batch, 0)
    values = accumulation.gradients(parts, iter([given.load(list(part.rows), 0) for part in parts]), 0)
    return values["loss"], {n: p.grad.clone() for n, p in given.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("micro_batch", [1, 4, 5, 11])
@pytest.mark.parametrize("name", list(LOSSES))
def test_a_cut_batch_has_loss_and_gradients_of_the_uncut(name: str, micro_batch: int, tmp_path: Path) -> None:
    whole, expected = gradients(training(Layers(), LOSSES[name]), tmp_path)
    cut, found = gradients(training(Layers(), LOSSES[name], micro_batch=micro_batch), tmp_path)
    assert cut == pytest.approx(whole, rel=1e-6)
    assert expected.keys() == found.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-6, atol=1e-9)


def test_without_a_first_pass_it_has_not(tmp_path: Path) -> None:
    whole, _ = gradients(training(Layers(), dice), tmp_path)
    cut, _ = gradients(training(Layers(), dice, micro_batch=4, coupled=False), tmp_path)
    assert abs(cut - whole) > 1e-3


def slow_nt_xent(first: Tensor, second: Tensor) -> Tensor:
    """SimCLR's Eq. 1, anchor by anchor."""
    views = [one / one.norm() for one in (*first, *second)]
    count, terms = len(first), []
    for anchor in range(2 * count):
        partner = (anchor + count) % (2 * count)
        others = [
            math.e ** (views[anchor] @ views[other] / TEMPERATURE) for other in range(2 * count) if other != anchor
        ]
        terms.append(-(views[anchor] @ views[partner] / TEMPERATURE) + torch.stack(others).sum().log())
    return torch.stack(terms).mean()


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.enter, self.norm = nn.Conv2d(WIDTH, 4, 1), GlobalBatchNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.enter(x)).tanh()
        return y


def normed_contrast(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    first, second = network(torch.cat((images, images.flip(-1) * 0.9))).mean(dim=(2, 3)).chunk(2)
    return nt_xent(first, second, temperature=TEMPERATURE).loss


def slow_norm(x: Tensor) -> Tensor:
    """Batch norm of (B,C,h,w) by its definition, without scale and offset."""
    rows = x.movedim(1, 0).flatten(1)
    mean = torch.stack([row.sum() / row.numel() for row in rows])
    variance = torch.stack([(row - m).square().sum() / row.numel() for row, m in zip(rows, mean, strict=True)])
    return (x - mean.view(1, -1, 1, 1)) / (variance + 1e-5).sqrt().view(1, -1, 1, 1)


@pytest.mark.parametrize("norm_batch", [4, 6, 12, 64])
def test_a_batch_norm_sees_norm_batch_slices_and_the_loss_all(norm_batch: int, tmp_path: Path) -> None:
    network = Normed()
    loss, found = gradients(training(network, normed_contrast, norm_batch=norm_batch, micro_batch=1), tmp_path)
    moved = {name: value.clone() for name, value in network.named_buffers()}
    slow, (images, _) = Normed(), inputs()
    chunks = [slice(start, start + norm_batch) for start in range(0, BATCH, norm_batch)]
    views = [torch.cat((images[chunk], images[chunk].flip(-1) * 0.9)) for chunk in chunks]
    embedded = [slow_norm(slow.enter(view)).tanh().mean(dim=(2, 3)).chunk(2) for view in views]
    expected = slow_nt_xent(torch.cat([one[0] for one in embedded]), torch.cat([one[1] for one in embedded]))
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    for name, parameter in slow.enter.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[f"enter.{name}"], parameter.grad, rtol=1e-6, atol=1e-9)
    # Running statistics move once for each part, not in the first pass as well.
    assert int(moved["norm.num_batches_tracked"]) == len(chunks)
    again = Normed()
    for view in views:
        again(view)
    torch.testing.assert_close(moved["norm.running_mean"], again.norm.running_mean)


def test_draws_belong_to_samples_and_are_torchs_own_where_nothing_is_cut() -> None:
    for x in (
        torch.randn(6, 4, 5, 5),
        torch.randn(6, 4, 5, 5).to(memory_format=torch.channels_last),
        torch.randn(6, 3),
    ):
        whole = []
        for draw in (batch_parts.normal_like, lambda like: batch_parts.dropout(like, 0.3)):
            torch.manual_seed(7)
            own = draw(x)
            parts = WholeBatch(2)
            for number, rows in enumerate((range(2), range(2, 6))):
                with parts.at(Part(number, rows, len(rows), 6, 7)):
                    assert torch.equal(draw(x[rows.start : rows.stop]), own[rows.start : rows.stop])
            whole.append(own)
        torch.manual_seed(7)
        assert torch.equal(whole[0], torch.randn_like(x))
        torch.manual_seed(7)
        assert torch.equal(whole[1], nn.functional.dropout(x, 0.3))


def _on_this_rank(folder: Path) -> None:
    distributed.start(torch.device("cpu"))
    found: dict[str, Tensor] = {}
    for name, network, changes in RANKED:
        loss, own = gradients(training(network(), LOSSES[name], **changes), folder)
        found |= {f"{name}/{parameter}": gradient for parameter, gradient in own.items()}
        found[f"{name}/loss"] = torch.tensor(loss)
    if distributed.is_main():
        torch.save(found, folder / "found.pt")
    distributed.stop()


LOSSES["normed"] = normed_contrast
RANKED: list[tuple[str, type[nn.Module], dict[str, object]]] = [
    ("contrast", Layers, {"micro_batch": 2}),
    ("dice", Layers, {"micro_batch": 1}),
    ("normed", Normed, {"norm_batch": 5, "micro_batch": 1}),
]


def test_two_ranks_with_cut_batches_equal_one_process_with_whole_ones(tmp_path: Path) -> None:
    """In one process a part of five is one of four samples; shares of two ranks are uneven in some parts."""
    assert on_ranks(2, lambda: _on_this_rank(tmp_path)) == [0, 0]
    found = torch.load(tmp_path / "found.pt")
    for name, network, changes in RANKED:
        whole = {} if name != "normed" else changes
        loss, expected = gradients(training(network(), LOSSES[name], **whole), tmp_path)
        assert float(found[f"{name}/loss"]) == pytest.approx(loss, rel=1e-6)
        for parameter, gradient in expected.items():
            torch.testing.assert_close(found[f"{name}/{parameter}"], gradient, rtol=1e-6, atol=1e-9)
