"""Random intensities against a literal restatement in NumPy and SciPy, one slice at a time."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage

from samora_pipeline.contracts.random_steps import STRONG_INTENSITIES, AugmentationSettings, IntensitySettings
from samora_pipeline.slices.augmentation import apply_augmentation, apply_geometry, draw_augmentation
from samora_pipeline.slices.intensities import IntensityParameters, apply_intensities, draw_intensities

N = 32
STILL = IntensitySettings()
ALWAYS = replace(STRONG_INTENSITIES, curve=1.0, blur=1.0, blur_sigma=(0.02, 0.05), low_resolution=1.0)
SETTINGS = [field.name for field in fields(IntensitySettings) if field.name not in ("blur_sigma", "resolution")]
Array = npt.NDArray[np.float64]


def images(count: int = 3, channels: int = 2) -> torch.Tensor:
    noise = np.random.default_rng(0).random((count, channels, N, N))
    smooth = ndimage.gaussian_filter(noise, (0, 0, 2, 2))
    return torch.from_numpy((smooth - smooth.min()) / np.ptp(smooth)).float()


def drawn(settings: IntensitySettings, count: int = 3, **changes: Any) -> IntensityParameters:
    drawing: dict[str, Any] = {"seed": 1, "epoch": 2, **changes}
    return draw_intensities([f"case/{i}" for i in range(count)], settings, **drawing)


def cubic(points: Array, size: int) -> Array:
    """Bicubic interpolation of a line of points, ends repeated, as torch's (a = -0.75), laid out corner to corner."""

    def weight(distance: float) -> float:
        d, a = abs(distance), -0.75
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0

    result = []
    for i in range(size):
        place = i * (len(points) - 1) / (size - 1)
        near = range(math.floor(place) - 1, math.floor(place) + 3)
        result.append(sum(weight(place - j) * points[min(max(j, 0), len(points) - 1)] for j in near))
    return np.array(result)


def literal(image: Array, p: dict[str, Array], noise: Array) -> Array:
    """One image (C,N,N) through all steps."""
    image = np.clip(((image - image.mean()) * p["contrast"] + image.mean()) * p["brightness"], 0, 1)
    image = np.interp(image, np.linspace(0, 1, 5), [0, *np.cumsum(p["curve"])])
    image = np.clip(image, 0, 1) ** p["gamma"]
    field = np.apply_along_axis(cubic, 1, np.apply_along_axis(cubic, 0, p["field"], N), N)
    image = np.clip(image * (1 + p["bias"] * field), 0, 1)
    if p["blur_sigma"]:
        sigma = float(p["blur_sigma"]) * N
        weights = np.exp(-0.5 * ((np.arange(N)[:, None] - np.arange(N)) / sigma) ** 2)
        weights /= weights.sum(1, keepdims=True)
        image = np.clip(weights @ image @ weights.T, 0, 1)
    if p["resolution"] != 1:
        image = np.clip(coarsened(image, max(1, round(N * float(p["resolution"])))), 0, 1)
    return np.clip(image + p["noise"] * noise, 0, 1)


def coarsened(image: Array, side: int) -> Array:
    down, up = np.zeros((side, N)), np.zeros((N, side))
    for i in range(side):
        first, last = i * N // side, -(-(i + 1) * N // side)
        down[i, first:last] = 1 / (last - first)
    for i in range(N):
        place = min(max((i + 0.5) * side / N - 0.5, 0), side - 1)
        low = min(int(place), side - 1)
        high = min(low + 1, side - 1)
        up[i, low] += 1 - (place - low)
        up[i, high] += place - low
    return up @ (down @ image @ down.T) @ up.T


@pytest.mark.parametrize("settings", [ALWAYS, STRONG_INTENSITIES, replace(STILL, gamma=(0.5, 2.0))])
def test_what_is_applied_is_what_was_drawn(settings: IntensitySettings) -> None:
    parameters = drawn(settings, 6)
    found = apply_intensities(images(6), parameters)
    for i, image in enumerate(images(6)):
        own = {name: values[i].double().numpy() for name, values in parameters._asdict().items() if name != "seeds"}
        generator = torch.Generator().manual_seed(parameters.seeds[i])
        noise = torch.randn(image.shape, generator=generator).double().numpy()
        np.testing.assert_allclose(found[i].numpy(), literal(image.double().numpy(), own, noise), atol=2e-5)


def test_nothing_is_changed_unless_it_is_asked_for() -> None:
    torch.testing.assert_close(apply_intensities(images(), drawn(STILL)), images(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_changes_something_and_nothing_else_that_is_drawn(name: str) -> None:
    one = replace(STILL, blur_sigma=ALWAYS.blur_sigma, **{name: getattr(ALWAYS, name)})
    changed = drawn(one)
    assert (apply_intensities(images(), changed) - images()).abs().amax((1, 2, 3)).min() > 1e-3
    other = replace(ALWAYS, **{name: getattr(STILL, name)})
    for field, value in drawn(other)._asdict().items():
        if field not in (name, "blur_sigma", "resolution"):
            assert str(value) == str(getattr(drawn(ALWAYS), field))


def test_ranges() -> None:
    parameters = drawn(ALWAYS, 500)
    assert 0.4 <= parameters.gamma.min() < 0.41
    assert 2.4 < parameters.gamma.max() <= 2.5
    assert abs(parameters.gamma.log().mean()) < 0.1
    assert 0.49 < parameters.bias.max() <= 0.5
    assert parameters.field.abs().max() <= 1
    torch.testing.assert_close(parameters.curve.sum(1), torch.ones(500))
    steepness = parameters.curve.amax(1) / parameters.curve.amin(1)
    assert 1 < steepness.min() < steepness.max() < 8
    half = drawn(replace(STRONG_INTENSITIES, blur=0.5), 500).blur_sigma
    assert abs((half > 0).float().mean() - 0.5) < 0.07


def test_a_slice_is_varied_alike_in_any_batch() -> None:
    keys = ["a", "b", "c", "d"]
    whole = apply_intensities(images(4), draw_intensities(keys, ALWAYS, seed=0, epoch=3))
    for chosen in ([2], [3, 0]):
        parameters = draw_intensities([keys[i] for i in chosen], ALWAYS, seed=0, epoch=3)
        torch.testing.assert_close(apply_intensities(images(4)[chosen], parameters), whole[chosen], atol=1e-6, rtol=0)
    drawing: dict[str, Any] = {"seed": 0, "epoch": 3}
    for changes in ({"epoch": 4}, {"seed": 1}, {"purpose": "other"}):
        other = draw_intensities(keys, ALWAYS, **{**drawing, **changes})
        assert not torch.equal(other.gamma, draw_intensities(keys, ALWAYS, seed=0, epoch=3).gamma)
    assert apply_intensities(images(4)[:0], draw_intensities([], ALWAYS, seed=0, epoch=0)).shape == (0, 2, N, N)


def test_augmentation_takes_them_after_its_geometry() -> None:
    settings = AugmentationSettings(gamma=(0.5, 2.0), bias=(0.2, 0.4))
    targets = torch.zeros(3, N, N, dtype=torch.int64)
    parameters = draw_augmentation(["a", "b", "c"], N, settings, (True, True), seed=0, epoch=0)
    found, labels = apply_augmentation(images(), targets, parameters)
    moved, moved_labels = apply_geometry(images(), targets, parameters)
    assert torch.equal(labels, moved_labels)
    # Bicubic overshoot is cut before contrast or after it, which a few pixels show.
    assert (found - apply_intensities(moved, parameters.intensities)).abs().mean() < 1e-3
    assert (parameters.intensities.gamma != 1).all()
