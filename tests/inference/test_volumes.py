"""Whole volumes through the predictor: where they come back, and what a slow restatement of their average gives."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import ModuleSpec
from samora_pipeline.errors import ResourceError
from samora_pipeline.imaging.intensity import measure, normalize
from samora_pipeline.imaging.volume_map import VolumeMap
from samora_pipeline.inference import predictor as predictor_module
from samora_pipeline.inference.loading import load_folds
from samora_pipeline.inference.predictor import Predictor
from samora_pipeline.inference.volumes import VolumePredictor
from tests.fake_run import LABELS, REGIONS, make_plans, write_fake_run
from tests.inference.test_predictor import ONE, UNIT, Copy, cube, turned, volume

GRID = (8, 16, 24)
SPEC = ModuleSpec("unet3d", max(GRID), LABELS.num_outputs, options={"widths": [8, 16]}, volume=GRID)
SPACING = (3.0, 1.1, 0.9)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SLA"])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_a_bright_cube_comes_back_where_it_was(axes: str, axis: str) -> None:
    plans = make_plans(intensity=UNIT, slice_axis=axis)
    array = cube()
    # Twice as fine along each axis, so that nothing is lost on the way.
    predictor = VolumePredictor([Copy()], plans, ONE, volume=(72, 72, 72))
    labels = predictor.predict_volume((volume(array, turned(axes, (1.0, 1.2, 2.0), angle=12)),))
    assert labels.shape == array.shape
    assert np.array_equal(labels, (array * 7).astype(np.uint8))


def averaged(networks: list[nn.Module], images: npt.NDArray[Any], plans: Any) -> npt.NDArray[np.float64]:
    """Probabilities (S,K,H,W): fold by fold, view by view, in double precision."""
    shape = (images.shape[0], *images.shape[2:])
    way = VolumeMap.between(shape, GRID)
    whole = [measure(images[:, channel]) for channel in range(images.shape[1])]
    normalized = normalize(images, plans.intensity.value, whole)
    small = way.image(lambda index: normalized[index], images.shape[1])
    planes, rows, columns = way.logit_operators()
    views = [view for count in range(4) for view in itertools.combinations((1, 2, 3), count)]
    members = []
    for network, flips in itertools.product(networks, views):
        with torch.no_grad():
            logits = network.eval()(torch.from_numpy(np.flip(small, flips).copy())[None])[0].double().numpy()
        scores = np.einsum("sd,hr,wc,kdrc->skhw", planes, rows, columns, np.flip(logits, flips))
        powers = np.exp(scores - scores.max(1, keepdims=True))
        members.append(powers / powers.sum(1, keepdims=True))
    result: npt.NDArray[np.float64] = np.mean(members, axis=0)
    return result


def test_folds_and_views_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_fake_run(tmp_path, folds=("0", "1"), spec=SPEC, run="UNet3DTrainer__full__default", effect=0.1)
    networks = [fold.network for fold in load_folds([run / "fold_0", run / "fold_1"], run)]
    images = np.random.default_rng(3).integers(-200, 400, (5, 1, 20, 32)).astype(np.int16)
    predictor = Predictor.load(run, weights_folder=run, tta=True, precision="fp32")
    assert isinstance(predictor, VolumePredictor)
    # Two slices at a time.
    monkeypatch.setitem(predictor_module.CHUNK_BYTES, "cpu", 2 * 4 * LABELS.num_outputs * 20 * 32)
    chunks = list(predictor.predict_scores(images, SPACING))
    assert [chunk.start for chunk in chunks] == [0, 2, 4]
    found = torch.cat([chunk.probabilities for chunk in chunks]).numpy()
    expected = averaged(list(networks), images, make_plans())
    contrast = np.ptp(expected, axis=(0, 2, 3)).max()
    assert np.abs(found - expected).max() < 2e-3 * contrast
    assert np.array_equal(predictor(images[:, 0], SPACING), expected.argmax(1).astype(np.uint8))


class Confident(nn.Module):
    """Two regions, each where the intensity is above a threshold of its own."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images - 0.2, images - 0.8], 1) * 40


def test_regions_have_a_probability_each() -> None:
    images = np.linspace(0, 1, 4 * 8 * 8, dtype=np.float32).reshape(4, 1, 8, 8)
    predictor = VolumePredictor([Confident()], make_plans(intensity=UNIT), REGIONS, volume=(8, 8, 8))
    (chunk,) = predictor.predict_scores(images, SPACING)
    sums = chunk.probabilities.sum(1)
    assert sums.min() < 0.1
    assert sums.max() > 1.9


def test_in_bf16_it_says_nearly_the_same(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path, folds=("0",), spec=SPEC, run="UNet3DTrainer__full__default", effect=0.1)
    images = np.random.default_rng(4).integers(-200, 400, (5, 1, 20, 32)).astype(np.int16)
    scores = []
    for precision in ("fp32", "bf16"):
        predictor = Predictor.load(run / "fold_0", weights_folder=run, precision=precision)
        (chunk,) = predictor.predict_scores(images, SPACING)
        scores.append(chunk.probabilities)
    assert scores[1].dtype == torch.float32
    assert 0 < (scores[0] - scores[1]).abs().max() < 0.03


class TooLarge(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("no room")


def test_a_volume_that_does_not_fit_is_an_error_that_says_so() -> None:
    predictor = VolumePredictor([TooLarge()], make_plans(intensity=UNIT), ONE, volume=(8, 16, 24))
    with pytest.raises(ResourceError, match="E-MEM-01") as caught:
        predictor(cube(), SPACING)
    assert "8 x 16 x 24 voxels" in caught.value.expected
    assert caught.value.fix
