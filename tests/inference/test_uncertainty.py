from __future__ import annotations

import math
from pathlib import Path

import blosc2
import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.inference.predictor import Predictor
from samora_pipeline.inference.probabilities import uncertainty
from tests.fake_run import make_plans, write_image


def entropy(probabilities: list[float]) -> float:
    return -sum(p * math.log(p) for p in probabilities if p > 0)


@pytest.mark.parametrize("regions", [False, True])
def test_it_is_the_entropy_in_percent_of_the_largest(regions: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator) * 3
    scores = logits.sigmoid() if regions else logits.softmax(1)
    found = uncertainty(scores.clone(), regions=regions)
    assert found.dtype == torch.uint8
    assert found.shape == (2, 4, 5)
    for b, h, w in np.ndindex(2, 4, 5):
        values = scores[b, :, h, w].tolist()
        worst = max(entropy([p, 1 - p]) for p in values) / math.log(2)
        expected = worst if regions else entropy(values) / math.log(3)
        assert abs(int(found[b, h, w]) - 100 * expected) <= 0.5001


def test_certain_is_0_and_undecided_is_100() -> None:
    certain, undecided = torch.zeros(1, 4, 2, 2), torch.full((1, 4, 2, 2), 0.25)
    certain[:, 2] = 1.0
    assert (uncertainty(certain, regions=False) == 0).all()
    assert (uncertainty(undecided, regions=False) == 100).all()
    assert (uncertainty(torch.tensor([0.0, 0.5]).view(1, 2, 1, 1), regions=True) == 100).all()


class Soft(nn.Module):
    """Two outputs whose difference grows with the intensity."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([0.5 - images, images - 0.5], 1) * self.slope


def test_the_map_lies_on_the_raw_grid_and_holds_the_entropy_of_the_mean(tmp_path: Path) -> None:
    scan = write_image(tmp_path / "a.nii.gz", affine=np.diag([-1.5, 1.5, -3.0, 1.0]))
    both = Predictor(
        [Soft(1.0), Soft(-9.0)], make_plans(slice_axis="coronal"), LabelScheme({"organ": (1,)}), input_size=64
    )
    files = {"probabilities": tmp_path / "p.b2nd", "uncertainty": tmp_path / "a_uncertainty.nii.gz"}
    both.predict_volume((read_volume(scan),), **files)
    mean = blosc2.open(str(files["probabilities"]))[:].astype(np.float64)
    expected = 100 * -(mean * np.log(np.maximum(mean, 1e-12))).sum(0) / math.log(2)
    image = nibabel.load(files["uncertainty"])
    found = np.asarray(image.dataobj)
    assert found.dtype == np.uint8
    assert np.array_equal(image.affine, nibabel.load(scan).affine)
    # float16 on disk, hence a little more than half a percent.
    assert np.abs(found - expected).max() < 0.7
    assert found.std() > 1
