"""Distillation against loops over its elements."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from samora_pipeline.objectives.features import (
    ChannelStatistics,
    StatisticsFit,
    distillation,
    on_grid,
    scaled_target,
)

CPU = torch.device("cpu")


def test_the_loss_is_the_mean_square_and_the_cosine_a_mean() -> None:
    prediction, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    pairs = [(p.tolist(), t.tolist()) for p, t in zip(prediction.flatten(0, 1), target.flatten(0, 1), strict=True)]
    squares = [(a - b) ** 2 for p, t in pairs for a, b in zip(p, t, strict=True)]
    cosines = [sum(a * b for a, b in zip(p, t, strict=True)) / math.hypot(*p) / math.hypot(*t) for p, t in pairs]
    terms = distillation(prediction, target)
    assert float(terms.loss) == pytest.approx(statistics.mean(squares), rel=1e-5)
    assert float(terms.cosine) == pytest.approx(statistics.mean(cosines), rel=1e-5, abs=1e-6)


def test_shapes_are_not_broadcast() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        distillation(torch.zeros(2, 1, 1, 4), torch.zeros(2, 3, 3, 4))


def test_only_the_student_has_a_gradient() -> None:
    prediction = torch.randn(2, 4, requires_grad=True)
    features = torch.randn(2, 4, requires_grad=True)
    distillation(prediction, scaled_target(features, "token")).loss.backward()
    assert prediction.grad is not None
    assert features.grad is None


def test_statistics_are_those_of_all_rows_however_they_come() -> None:
    rows = torch.randn(50, 3) * torch.tensor([1.0, 100.0, 0.01]) + torch.tensor([0.0, 1000.0, 5.0])
    fit = StatisticsFit(3)
    for batch in (rows[:1], rows[1:31], rows[31:31], rows[31:].view(1, 19, 3)):
        fit.add(batch)
    found = fit.result(CPU)
    for channel in range(3):
        values = [float(value) for value in rows[:, channel]]
        assert float(found.mean[channel]) == pytest.approx(statistics.mean(values), rel=1e-6, abs=1e-7)
        assert float(found.std[channel]) == pytest.approx(statistics.pstdev(values), rel=1e-6)


def test_a_channel_that_never_changes_is_left_at_zero() -> None:
    fit = StatisticsFit(2)
    rows = torch.stack((torch.full((6,), 0.1), torch.rand(6)), dim=1)
    fit.add(rows)
    target = scaled_target(rows, "channel", fit.result(CPU))
    assert float(target[:, 0].abs().max()) < 1e-6
    assert float(target[:, 1].std(unbiased=False)) == pytest.approx(1, rel=1e-4)


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        StatisticsFit(2).result(CPU)


def literal_layer_norm(row: list[float]) -> list[float]:
    mean = statistics.mean(row)
    variance = statistics.pvariance(row)
    return [(value - mean) / math.sqrt(variance + 1e-5) for value in row]


def test_scales_of_the_target() -> None:
    features = torch.randn(2, 3, 5, dtype=torch.bfloat16)
    token = scaled_target(features, "token")
    for row, expected in zip(token.flatten(0, 1), features.float().flatten(0, 1), strict=True):
        assert row.tolist() == pytest.approx(literal_layer_norm(expected.tolist()), rel=1e-4, abs=1e-5)
    fixed = ChannelStatistics(torch.arange(5.0), torch.arange(1.0, 6.0))
    channel = scaled_target(features, "channel", fixed)
    assert float(channel[1, 2, 3]) == pytest.approx((float(features[1, 2, 3]) - 3) / 4, rel=1e-6)
    assert torch.equal(scaled_target(features, "none"), features.float())
    assert {token.dtype, channel.dtype} == {torch.float32}
    with pytest.raises(ValueError, match="needs statistics"):
        scaled_target(features, "channel")


def literal_average(target: Tensor, side: int) -> Tensor:
    factor = target.shape[1] // side
    out = torch.zeros(target.shape[0], side, side, target.shape[3])
    for i in range(side):
        for j in range(side):
            cells = target[:, factor * i : factor * (i + 1), factor * j : factor * (j + 1)]
            out[:, i, j] = cells.mean(dim=(1, 2))
    return out


def test_a_finer_target_is_averaged_and_a_coarser_one_left() -> None:
    target = torch.randn(2, 8, 8, 3)
    torch.testing.assert_close(on_grid(target, 4), literal_average(target, 4))
    assert torch.equal(on_grid(target, 8), target)
    assert torch.equal(on_grid(target, 16), target)
