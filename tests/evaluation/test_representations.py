"""Measures of features against slow literal versions and cases with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from samora_pipeline.evaluation.representations import (
    LARGEST_PSNR,
    alignment,
    class_probe,
    effective_rank,
    linear_cka,
    number_probe,
    restoration_scores,
    spread,
    uniformity,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_spread_is_one_where_features_fill_the_sphere_and_zero_where_they_collapse() -> None:
    assert spread(draw(4000, 16)) == pytest.approx(1, abs=0.02)
    assert spread(torch.ones(8, 16)) == pytest.approx(0, abs=1e-6)


def test_effective_rank_counts_directions() -> None:
    directions = torch.linalg.qr(draw(64, 64)).Q
    for count in (1, 3, 10):
        features = torch.cat((directions[:count], -directions[:count]))
        assert effective_rank(features) == pytest.approx(count, rel=1e-5)
    values = np.linalg.svd((draw(9, 5) - draw(9, 5).mean(0)).double().numpy())[1]
    shares = values / values.sum()
    assert effective_rank(draw(9, 5)) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


def test_alignment_and_uniformity_against_their_definitions() -> None:
    x, y = (torch.nn.functional.normalize(draw(6, 4, seed=seed), dim=1) for seed in (1, 2))
    literal = [sum((float(a) - float(b)) ** 2 for a, b in zip(p, q, strict=True)) for p, q in zip(x, y, strict=True)]
    assert alignment(3 * x, y) == pytest.approx(sum(literal) / 6, rel=1e-5)
    pairs = [math.exp(-2 * float((x[i] - x[j]).square().sum())) for i in range(6) for j in range(i)]
    assert uniformity(5 * x) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-5)
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-9)


def test_cka_ignores_rotation_and_scale_and_finds_nothing_in_noise() -> None:
    features = draw(20, 7)
    rotation = torch.linalg.qr(draw(7, 7, seed=3)).Q
    assert linear_cka(features, 5 * features @ rotation + 1) == pytest.approx(1, abs=1e-6)
    # Feature form: |Y'X|^2 / (|X'X| |Y'Y|).
    x, y = (values - values.mean(0) for values in (features.double(), draw(20, 4, seed=5).double()))
    literal = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert linear_cka(features, draw(20, 4, seed=5)) == pytest.approx(float(literal), rel=1e-6)
    assert linear_cka(draw(2000, 4), draw(2000, 4, seed=5)) < 0.02


def test_probes_read_off_other_scans_only() -> None:
    places = [0.0, 0.5, 1.0] * 4
    features = torch.tensor([[math.cos(place), math.sin(place)] for place in places])
    groups = [f"case_{i // 3}" for i in range(12)]
    probe = number_probe(features, places, groups)
    assert probe.value == pytest.approx(0, abs=1e-9)
    assert probe.chance == pytest.approx(1 / 3)
    # In one scan alone there is nobody to ask.
    assert number_probe(features[:3], places[:3], groups[:3]).value == 0
    kinds = ["a", "b", "b"] * 4
    probe = class_probe(features, kinds, groups)
    assert probe.value == 1.0
    assert probe.chance == pytest.approx(2 / 3)
    assert class_probe(draw(12, 8), kinds, groups).value < 1
    assert class_probe(features[:3], kinds[:3], groups[:3]).value == 0


def test_restoration_against_the_definition_of_psnr() -> None:
    clean = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    noisy = clean + 0.1
    scores = restoration_scores(noisy, clean)
    for i in range(2):
        error = float((noisy[i].clamp(0, 1) - clean[i]).square().mean())
        assert scores.psnr[i] == pytest.approx(-10 * math.log10(error), rel=1e-4)
    assert restoration_scores(clean, clean.clone() + 1e-9).ssim == pytest.approx([1, 1])
    assert all(0 < value < 1 for value in scores.ssim)


@pytest.mark.filterwarnings("error")
def test_equal_slices_have_a_finite_psnr() -> None:
    clean = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    other = torch.stack((clean[0], clean[1] + 2e-5))
    scores = restoration_scores(other, clean)
    assert scores.psnr[0] == LARGEST_PSNR
    assert 90 < scores.psnr[1] < LARGEST_PSNR
