"""NT-Xent against the three loops of its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from samora_pipeline.objectives.contrastive import nt_xent


def slow_nt_xent(first: Tensor, second: Tensor, temperature: float) -> tuple[float, float]:
    """SimCLR's Eq. 1 (arXiv 2002.05709), view by view: mean loss and share of partners ranked first."""
    views = [vector.double() for vector in (*first, *second)]
    count = len(views)

    def similarity(i: int, j: int) -> float:
        return float(views[i] @ views[j] / views[i].norm() / views[j].norm()) / temperature

    loss, hits = 0.0, 0
    for i in range(count):
        partner = (i + count // 2) % count
        others = 0.0
        for k in range(count):
            if k != i:
                others += math.exp(similarity(i, k))
        loss -= math.log(math.exp(similarity(i, partner)) / others)
        hits += all(similarity(i, partner) >= similarity(i, k) for k in range(count) if k != i)
    return loss / count, hits / count


@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
@pytest.mark.parametrize(("count", "width"), [(1, 4), (2, 3), (7, 16)])
def test_value_and_accuracy_match_the_definition(count: int, width: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(count)
    first = torch.randn(count, width, generator=generator)
    second = first + torch.randn(count, width, generator=generator)
    terms = nt_xent(first, second, temperature=temperature)
    loss, accuracy = slow_nt_xent(first, second, temperature)
    assert float(terms.loss) == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert float(terms.accuracy) == pytest.approx(accuracy)


def test_views_are_interchangeable_and_length_is_irrelevant() -> None:
    first, second = torch.randn(5, 8), torch.randn(5, 8)
    loss = nt_xent(first, second).loss
    torch.testing.assert_close(nt_xent(second, first).loss, loss)
    torch.testing.assert_close(nt_xent(first * 3, second * 0.1).loss, loss)


def test_equal_embeddings_give_chance_and_perfect_ones_the_minimum() -> None:
    same = torch.ones(8, 4)
    assert float(nt_xent(same, same).loss) == pytest.approx(math.log(15), rel=1e-5)
    perfect = nt_xent(torch.eye(8), torch.eye(8))
    assert float(perfect.loss) == pytest.approx(math.log(1 + 14 * math.exp(-10)), rel=1e-4)
    assert float(perfect.accuracy) == 1.0


def test_autocast_does_not_touch_the_logits() -> None:
    first, second = torch.randn(6, 32), torch.randn(6, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = nt_xent(first, second).loss
    assert torch.equal(inside, nt_xent(first, second).loss)


def test_lightly_agrees() -> None:
    lightly = pytest.importorskip("lightly.loss", reason="lightly is not installed")
    first, second = torch.randn(6, 16, requires_grad=True), torch.randn(6, 16)
    expected = lightly.NTXentLoss(temperature=0.2)(first, second)
    (gradient,) = torch.autograd.grad(expected, first)
    loss = nt_xent(first, second, temperature=0.2).loss
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, first)[0], gradient)


def test_simclrs_own_sum_is_twice_the_mean() -> None:
    """google-research/simclr adds the mean losses of both views; its logits mask the view itself with -1e9."""
    first, second = (torch.nn.functional.normalize(torch.randn(5, 8), dim=1) for _ in range(2))
    masked = torch.eye(5) * 1e9
    total = torch.tensor(0.0)
    for own, other in ((first, second), (second, first)):
        logits = torch.cat((own @ other.T, own @ own.T - masked), dim=1) / 0.1
        total += -logits.log_softmax(dim=1).diagonal().mean()
    torch.testing.assert_close(2 * nt_xent(first, second).loss, total)
