"""The trained models that come with the repository: whole, small, and able to segment a scan they have not seen."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from samora_pipeline.exported.install import verify
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.inference.predictor import Predictor

MODELS = Path(__file__).parents[2] / "benchmarks" / "models"
LA = MODELS / "la_5pct_tiny"
DATA = Path(os.environ.get("SAMORA_TEST_DATA", Path(__file__).parents[2] / "../shared/data")).resolve() / "LA"
LARGEST = 8 << 20


@pytest.mark.parametrize(
    "model", [pytest.param(path.parent, id=path.parent.name) for path in MODELS.glob("*/model.json")]
)
def test_a_model_is_whole_small_and_explained(model: Path) -> None:
    verify(model)
    assert sum(path.stat().st_size for path in model.rglob("*") if path.is_file()) <= LARGEST
    assert f"`{model.name}`" in (MODELS / "README.md").read_text(encoding="utf-8")
    for name in ("MODEL_CARD.md", "LICENCES.md", "CITATIONS.md"):
        assert (model / name).is_file()


def test_the_atrium_model_segments_a_test_scan() -> None:
    if not DATA.is_dir():
        pytest.skip(f"no LA under {DATA.parent} (SAMORA_TEST_DATA)")
    scan = DATA / "Training Set" / "LH4FVU3TQDEC87YGN6FL"
    volume, truth = (read_volume(scan / name) for name in ("lgemri.nrrd", "laendo.nrrd"))
    found, wanted = Predictor.load(LA).predict_volume((volume,)) == 1, truth.array > 0
    # 0.8 was measured; the tolerance is for other machines' rounding.
    assert 2 * np.sum(found & wanted) / (np.sum(found) + np.sum(wanted)) > 0.75
