"""Noise of the pixel level: shares, strengths and what each kind may do to a pixel."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from samora_pipeline.contracts.part_options import NoiseSettings
from samora_pipeline.contracts.plans import IntensityRule, Planned, Plans
from samora_pipeline.slices.noise import (
    COARSE,
    GAUSSIAN,
    REPLACEMENT,
    Mixture,
    NoiseParameters,
    rician_channels,
)

KEYS = [f"case/{i}" for i in range(2000)]
N = 96
MIXTURE = Mixture(NoiseSettings())


def only(kind: int, sigma: float = 0.1, count: int = 1) -> NoiseParameters:
    drawn = Mixture(NoiseSettings()).draw(KEYS[:count], seed=0, epoch=0)
    return replace(drawn, kind=torch.full((count,), kind), sigma=torch.full((count,), sigma))


def test_kinds_have_their_shares_and_strengths_their_range() -> None:
    noise = Mixture(NoiseSettings()).draw(KEYS, seed=0, epoch=0)
    shares = torch.bincount(noise.kind, minlength=3) / len(KEYS)
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.04, rtol=0)
    assert 0.02 <= noise.sigma.min() < 0.025
    assert 0.245 < noise.sigma.max() <= 0.25
    fixed = Mixture(NoiseSettings((0.0, 1.0, 0.0))).draw(KEYS[:50], seed=0, epoch=0)
    assert (fixed.kind == REPLACEMENT).all()


def test_gaussian_noise_has_the_drawn_deviation() -> None:
    images = torch.full((1, 2, N, N), 0.5)
    difference = MIXTURE.apply(images, only(GAUSSIAN, 0.2), (False, False)) - images
    assert float(difference.std()) == pytest.approx(0.2, rel=0.03)
    assert float(difference.mean()) == pytest.approx(0.0, abs=0.01)
    channels = difference[0].flatten(1)
    assert abs(float(torch.corrcoef(channels)[0, 1])) < 0.05


def test_rician_noise_lifts_black_and_is_gaussian_where_bright() -> None:
    """The mean of the magnitude of pure noise is sigma sqrt(pi / 2), and far above the noise it is the signal's."""
    images = torch.zeros(1, 3, N, N)
    images[:, 1] = 1.0
    noisy = MIXTURE.apply(images, only(GAUSSIAN, 0.05), (True, True, False))
    assert noisy[0, :2].min() >= 0
    assert float(noisy[0, 0].mean()) == pytest.approx(0.05 * math.sqrt(math.pi / 2), rel=0.02)
    assert float(noisy[0, 1].mean()) == pytest.approx(1.0, abs=0.005)
    assert float(noisy[0, 1].std()) == pytest.approx(0.05, rel=0.05)
    assert float(noisy[0, 2].mean()) == pytest.approx(0.0, abs=0.003)


def test_replacement_takes_another_pixel_of_the_window_for_a_tenth() -> None:
    values = torch.arange(N * N, dtype=torch.float32).view(1, 1, N, N)
    images = torch.cat((values, -values), dim=1)
    noisy = MIXTURE.apply(images, only(REPLACEMENT), (False, True))
    assert torch.equal(noisy[:, 0], -noisy[:, 1])  # all channels of a pixel come from one place
    rows, columns = (noisy[0, 0] != values[0, 0]).nonzero(as_tuple=True)
    assert len(rows) / N**2 == pytest.approx(0.1, abs=0.02)
    source = noisy[0, 0, rows, columns].long()
    distances = torch.stack((source // N - rows, source % N - columns))
    assert distances.abs().max() == 2
    inner = (rows > 1) & (rows < N - 2) & (columns > 1) & (columns < N - 2)
    moves = {tuple(move) for move in distances.T[inner].tolist()}
    assert len(moves) == 24  # all neighbours, never the pixel itself


def test_coarse_noise_is_smooth() -> None:
    images = torch.full((1, 1, N, N), 0.5)
    difference = MIXTURE.apply(images, only(COARSE, 0.2), (False,)) - images
    assert 0.08 < float(difference.std()) < 0.2
    step = difference.diff(dim=-1).std() / difference.std()
    assert float(step) < 0.3  # white noise has sqrt(2)


def test_noise_does_not_depend_on_the_batch() -> None:
    images = torch.rand(6, 1, 32, 32)
    clean = images.clone()

    def noisy(chosen: list[int], seed: int = 0, epoch: int = 0) -> torch.Tensor:
        drawn = Mixture(NoiseSettings((0.4, 0.3, 0.3))).draw([KEYS[i] for i in chosen], seed=seed, epoch=epoch)
        return MIXTURE.apply(images[chosen], drawn, (False,))

    whole = noisy([0, 1, 2, 3, 4, 5])
    assert torch.equal(noisy([4, 0]), whole[[4, 0]])
    assert torch.equal(images, clean)
    assert not torch.equal(noisy([0], epoch=1), whole[:1])
    assert not torch.equal(noisy([0], seed=1), whole[:1])
    assert noisy([]).shape == (0, 1, 32, 32)


def test_channels_without_a_window_are_taken_for_mr() -> None:
    rules = (IntensityRule("window", -100.0, 300.0), IntensityRule("percentiles"), IntensityRule("range"))
    plans = Plans(
        dataset="D",
        channel_names=("CT", "T1", "T2"),
        slice_axis=Planned("axial", ""),
        in_plane=Planned("resize", ""),
        in_plane_spacing=Planned(None, ""),
        slice_size=Planned(N, ""),
        input_size=Planned(N, ""),
        channels=Planned("as_is", ""),
        intensity=Planned(rules, ""),
        mirror=Planned(True, ""),
        fingerprint_digest="",
    )
    assert rician_channels(plans) == (False, True, True)
