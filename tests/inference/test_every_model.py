"""Every registered trainer's network, with every fusion, goes through the one predictor and gives what a slow
restatement gives.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from samora_pipeline.contracts.model_spec import FusionSpec, ModelSpec, NetworkSpec
from samora_pipeline.imaging.intensity import measure, normalize
from samora_pipeline.imaging.resampling import InPlaneMap
from samora_pipeline.inference.loading import load_folds
from samora_pipeline.inference.predictor import Predictor
from samora_pipeline.models.catalog import FUSIONS
from samora_pipeline.models.expert_block import only_expert
from tests.fake_run import LABELS, make_plans, write_fake_run
from trainers.methods import TRAINERS
from trainers.runs.choices import choose_method, network_spec
from trainers.runs.request import Request

SPACING = (3.0, 1.1, 0.9)


def tiny_spec(name: str) -> NetworkSpec:
    backbone = "samora2_tiny" if TRAINERS.get(name).backbone.startswith("sam2") else "samora_tiny"
    method = choose_method(Request("1", name, "full", backbone=backbone))
    volume = (8, 16, 64) if TRAINERS.get(name).takes_volumes else None
    return network_spec(method, input_size=64, channels=1, num_outputs=LABELS.num_outputs, volume=volume)


def fused_spec(fusion: str) -> ModelSpec:
    spec = tiny_spec("SAMoraTrainer")
    assert isinstance(spec, ModelSpec)
    return replace(spec, fusion=FusionSpec(fusion))


def averaged(networks: list[nn.Module], images: npt.NDArray[Any], plans: Any) -> npt.NDArray[np.float64]:
    """Probabilities (S,K,H,W): slice by slice, fold by fold, view by view, in double precision."""
    height, width = images.shape[2:]
    in_plane = InPlaneMap.for_plan(height, width, SPACING[1:], plans, 64)
    rows, columns = in_plane.image_operators
    whole = [measure(images[:, channel]) for channel in range(images.shape[1])]
    result = []
    for image in normalize(images, plans.intensity.value, whole):
        small = (rows @ image @ columns.T).clip(0, 1).astype(np.float32)
        members = []
        for network, flips in itertools.product(networks, [(), (1,), (2,), (1, 2)]):
            with torch.no_grad():
                logits = network.eval()(torch.from_numpy(np.flip(small, flips).copy())[None])[0].double().numpy()
            up, across = in_plane.logit_operators(logits.shape[-1])
            scores = up @ np.flip(logits, flips) @ across.T
            powers = np.exp(scores - scores.max(0))
            members.append(powers / powers.sum(0))
        result.append(np.mean(members, axis=0))
    return np.stack(result)


def write_run(folder: Path, name: str, spec: NetworkSpec, *, effect: float = 0.1) -> Path:
    return write_fake_run(folder, folds=("0", "1"), spec=spec, run=f"{name}__full__default", effect=effect)


# Those of whole volumes are in test_volumes.py.
ON_SLICES = [name for name in TRAINERS.names() if not TRAINERS.get(name).takes_volumes]


@pytest.fixture(scope="module", params=[*ON_SLICES, *(f"fusion {name}" for name in FUSIONS.names())])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each trainer, and of SAMora with each fusion; experts and fusions have an effect."""
    _, fusion, name = request.param.rpartition("fusion ")
    folder = tmp_path_factory.mktemp(name)
    if fusion:
        return write_run(folder, "SAMoraTrainer", fused_spec(name))
    return write_run(folder, name, tiny_spec(name))


def test_folds_and_views_are_averaged(run: Path) -> None:
    networks = [fold.network for fold in load_folds([run / "fold_0", run / "fold_1"], run)]
    images = np.random.default_rng(3).integers(-200, 400, (1, 1, 40, 52)).astype(np.int16)
    predictor = Predictor.load(run, weights_folder=run, tta=True, precision="fp32")
    found = torch.cat([chunk.probabilities for chunk in predictor.predict_scores(images, SPACING)]).numpy()
    expected = averaged(list(networks), images, make_plans())
    # Random weights answer with little contrast; an error of any member would be as large as that contrast.
    contrast = np.ptp(expected, axis=(2, 3)).max()
    assert np.abs(found - expected).max() < 2e-3 * contrast
    assert np.abs(found - found[..., ::-1]).max() > 0.1 * contrast
    assert np.array_equal(predictor(images[:, 0], SPACING), expected.argmax(1).astype(np.uint8))


@pytest.mark.parametrize("name", FUSIONS.names())
def test_what_the_fusions_join_is_seen_by_the_predictor(name: str, tmp_path: Path) -> None:
    folds = load_folds([write_run(tmp_path, "SAMoraTrainer", fused_spec(name)) / "fold_0"], tmp_path)
    network = folds[0].network.eval()
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        fused = network(images)
        with only_expert(network, None):
            assert not torch.allclose(network(images), fused, atol=0.01 * float(fused.abs().max()))


def test_the_network_runs_in_bf16(run: Path) -> None:
    images = np.random.default_rng(4).integers(-200, 400, (1, 1, 40, 52)).astype(np.int16)
    scores = []
    for precision in ("fp32", "bf16"):
        predictor = Predictor.load(run / "fold_0", weights_folder=run, precision=precision)
        (chunk,) = predictor.predict_scores(images, SPACING)
        assert chunk.probabilities.dtype == torch.float32
        scores.append(chunk.probabilities)
    assert (scores[0] - scores[1]).abs().max() < 0.03
    assert not torch.equal(scores[0], scores[1])
