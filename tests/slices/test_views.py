"""Views of unlabelled slices: ranges, independence of the batch, and each operation against its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from samora_pipeline.contracts.random_steps import CONTRASTIVE_VIEWS, DISTILLATION_VIEWS, MASKED_VIEWS, ViewSettings
from samora_pipeline.slices.views import ViewParameters, apply_views, draw_token_masks, draw_views

BOTH = (True, True)
STILL = ViewSettings((1, 1), (1, 1), 0.0, (1, 1), (1, 1), (1, 1), 0.0, (0.01, 0.01))
KEYS = [f"Dataset001_Synapse/case/{i}" for i in range(300)]
N = 48


def smooth(count: int, channels: int = 1) -> torch.Tensor:
    noise = np.random.default_rng(0).random((count, channels, N, N))
    fields = ndimage.gaussian_filter(noise, (0, 0, 3, 3))
    return torch.from_numpy((fields - fields.min()) / np.ptp(fields)).float()


@pytest.mark.parametrize("settings", [CONTRASTIVE_VIEWS, DISTILLATION_VIEWS, MASKED_VIEWS])
def test_drawn_parameters_stay_in_their_ranges(settings: ViewSettings) -> None:
    views = draw_views(KEYS, settings, BOTH, seed=0, epoch=0)
    matrix = views.affine[:, :, :2].double().numpy()
    area = np.abs(np.linalg.det(matrix))
    half = np.linalg.norm(matrix, axis=1)  # of the crop, (x, y)
    angle = np.degrees(np.arctan2(np.abs(matrix[:, 1, 0]), np.abs(matrix[:, 0, 0])))
    flipped = np.sign(matrix[:, [0, 1], [0, 1]]) < 0
    whole = half.max(axis=1) < 1 - 1e-6  # neither side was cut off at the slice's edge
    assert settings.area[0] - 1e-6 <= area[whole].min() < settings.area[0] + 0.05
    assert area.max() <= 1 + 1e-6
    assert (half[:, 0] / half[:, 1])[whole].min() >= 3 / 4 - 1e-6
    assert (half[:, 0] / half[:, 1])[whole].max() <= 4 / 3 + 1e-6
    assert (np.abs(views.affine[:, :, 2].numpy()) + half).max() <= 1 + 1e-6
    assert settings.rotation - 1 <= angle.max() <= settings.rotation + 1e-4
    assert np.abs(flipped.mean(axis=0) - 0.5).max() < 0.1
    for drawn, ends in ((views.contrast, settings.contrast), (views.brightness, settings.brightness)):
        assert ends[0] - 1e-6 <= drawn.min() <= drawn.max() <= ends[1] + 1e-6
    assert settings.gamma[0] - 1e-6 <= views.gamma.min() <= views.gamma.max() <= settings.gamma[1] + 1e-6
    assert float((views.blur_sigma > 0).float().mean()) == pytest.approx(settings.blur, abs=0.1)
    assert float(views.blur_sigma.max()) <= settings.blur_sigma[1]


def test_flips_that_are_not_allowed_are_not_drawn() -> None:
    matrix = draw_views(KEYS, CONTRASTIVE_VIEWS, (True, False), seed=0, epoch=0).affine
    assert (matrix[:, 0, 0] > 0).all()
    assert (matrix[:, 1, 1] < 0).any()


def test_still_settings_change_nothing() -> None:
    images = smooth(3, channels=2)
    views = draw_views(KEYS[:3], STILL, (False, False), seed=0, epoch=0)
    torch.testing.assert_close(apply_views(images, views), images, atol=1e-5, rtol=0)


def test_flips_reverse_rows_and_columns() -> None:
    images = smooth(40)
    views = draw_views(KEYS[:40], STILL, BOTH, seed=0, epoch=0)
    got = apply_views(images, views)
    kinds = set()
    for result, image, matrix in zip(got, images, views.affine, strict=True):
        axes = [axis for axis, entry in ((-1, matrix[0, 0]), (-2, matrix[1, 1])) if entry < 0]
        kinds.add(tuple(axes))
        torch.testing.assert_close(result, image.flip(axes), atol=1e-4, rtol=0)
    assert len(kinds) == 4


def test_geometry_is_one_affine_map() -> None:
    """A linear ramp survives linear interpolation, so each pixel tells where it came from."""
    place = (torch.arange(N) + 0.5) * 2 / N - 1
    ramps = torch.stack((place.expand(N, N), place[:, None].expand(N, N))) * 0.25 + 0.5
    settings = replace(CONTRASTIVE_VIEWS, contrast=(1, 1), brightness=(1, 1), gamma=(1, 1), blur=0.0)
    views = draw_views(KEYS[:20], settings, BOTH, seed=0, epoch=0)
    got = (apply_views(ramps.expand(20, -1, -1, -1), views) - 0.5) / 0.25
    source = torch.einsum("bij,jrc->birc", views.affine[:, :, :2], torch.stack(((ramps - 0.5) / 0.25).unbind()))
    source = source + views.affine[:, :, 2, None, None]
    edge = 1 - 1 / N  # the centre of the outermost pixel, which is repeated beyond
    torch.testing.assert_close(got, source.clamp(-edge, edge), atol=1e-4, rtol=0)


def test_intensity_is_contrast_then_brightness_then_gamma() -> None:
    images = smooth(4, channels=2)
    still = draw_views(KEYS[:4], STILL, (False, False), seed=0, epoch=0)
    views = still._replace(
        contrast=torch.tensor([0.5, 1.0, 1.0, 1.4]),
        brightness=torch.tensor([1.0, 1.3, 1.0, 0.8]),
        gamma=torch.tensor([1.0, 1.0, 0.5, 1.4]),
    )
    got = apply_views(images, views)
    for i, image in enumerate(images):
        mean = image.mean()
        expected = (((image - mean) * views.contrast[i] + mean) * views.brightness[i]).clamp(0, 1) ** views.gamma[i]
        torch.testing.assert_close(got[i], expected, atol=1e-4, rtol=0)


def test_blur_is_gaussian_and_leaves_the_other_samples_alone() -> None:
    images = torch.rand(3, 2, N, N)
    still = draw_views(KEYS[:3], STILL, (False, False), seed=0, epoch=0)
    got = apply_views(images, still._replace(blur_sigma=torch.tensor([0.0, 1.0, 2.0]) / N))
    torch.testing.assert_close(got[0], images[0], atol=1e-5, rtol=0)
    for sample, sigma in ((1, 1.0), (2, 2.0)):
        expected = ndimage.gaussian_filter(images[sample].numpy(), (0, sigma, sigma), truncate=8)
        np.testing.assert_allclose(got[sample, :, 10:-10, 10:-10], expected[:, 10:-10, 10:-10], atol=1e-4)
    constant = apply_views(torch.full((3, 1, N, N), 0.25), still._replace(blur_sigma=torch.full((3,), 2.0) / N))
    torch.testing.assert_close(constant, torch.full((3, 1, N, N), 0.25))


def test_a_view_does_not_depend_on_its_batch() -> None:
    images = smooth(6)

    def viewed(chosen: list[int], **other: int) -> torch.Tensor:
        key = {"seed": 1, "epoch": 2, "view": 0} | other
        views = draw_views([KEYS[i] for i in chosen], CONTRASTIVE_VIEWS, BOTH, **key)
        return apply_views(images[chosen], views)

    whole = viewed([0, 1, 2, 3, 4, 5])
    for chosen in ([5, 0, 2], [4], [1, 0]):
        torch.testing.assert_close(viewed(chosen), whole[chosen], atol=1e-6, rtol=0)
    for other in ({"view": 1}, {"epoch": 3}, {"seed": 2}):
        assert not torch.equal(viewed([0], **other), whole[:1])


def test_another_strength_does_not_reshuffle_the_rest() -> None:
    first = draw_views(KEYS[:5], CONTRASTIVE_VIEWS, BOTH, seed=0, epoch=0)
    second = draw_views(KEYS[:5], replace(CONTRASTIVE_VIEWS, contrast=(1, 1), blur=0.0), BOTH, seed=0, epoch=0)
    assert torch.equal(first.affine, second.affine)
    assert torch.equal(first.gamma, second.gamma)


def test_parameters_move_to_a_device_whole() -> None:
    views = draw_views(KEYS[:2], CONTRASTIVE_VIEWS, BOTH, seed=0, epoch=0).to(torch.device("meta"))
    assert isinstance(views, ViewParameters)
    assert {value.device.type for value in views} == {"meta"}


@pytest.mark.parametrize(("grid", "ratio", "hidden"), [(14, 0.75, 147), (8, 0.75, 48), (8, 0.5, 32), (7, 0.6, 30)])
def test_token_masks_hide_the_same_number_everywhere(grid: int, ratio: float, hidden: int) -> None:
    """MAE keeps int(L (1 - ratio)) tokens: 49 of 196."""
    masks = draw_token_masks(KEYS, grid, ratio, seed=0, epoch=0)
    assert masks.shape == (300, grid, grid)
    assert (masks.sum(dim=(1, 2)) == hidden).all()
    share = masks.float().mean(dim=0)
    assert share.sub(hidden / grid**2).abs().max() < 0.12  # no position is favoured
    assert torch.equal(draw_token_masks(KEYS[7:9], grid, ratio, seed=0, epoch=0), masks[7:9])
    assert not torch.equal(draw_token_masks(KEYS[:2], grid, ratio, seed=0, epoch=1), masks[:2])
    assert draw_token_masks([], grid, ratio, seed=0, epoch=0).shape == (0, grid, grid)
