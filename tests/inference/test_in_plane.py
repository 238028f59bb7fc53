"""The products on a device against the in-plane map they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samora_pipeline.imaging.resampling import InPlaneMap
from samora_pipeline.inference.device import DeviceMap
from tests.fake_run import make_plans


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize(("rule", "spacing"), [("resize", None), ("resample_and_pad", 2.0), ("resample_and_pad", 0.7)])
def test_a_device_map_equals_the_in_plane_map(rule: str, spacing: float | None, regions: bool) -> None:
    plans = make_plans(in_plane=rule, in_plane_spacing=spacing, slice_size=40)
    expected = InPlaneMap.for_plan(45, 33, (0.9, 1.3), plans, 64)
    got = DeviceMap(expected, torch.device("cpu"), regions=regions)
    rng = np.random.default_rng(0)
    images = rng.random((2, 1, 45, 33), dtype=np.float32)
    logits = rng.normal(size=(2, 3, 16, 16)).astype(np.float32)
    assert np.allclose(got.image(torch.from_numpy(images)).numpy(), expected.image(images), atol=1e-5)
    assert np.allclose(got.logits(torch.from_numpy(logits)).numpy(), expected.logits(logits, regions), atol=1e-4)
