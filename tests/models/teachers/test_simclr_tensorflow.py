"""The SimCLRv2 encoder against TensorFlow's own convolutions and pooling, where TensorFlow is installed.

TensorFlow runs in a process of its own: imported into one where torch has computed already, it crashes.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from samora_pipeline.models.teachers.simclr import ResNetGeometry, ResNetSK
from tests.models.teachers import simclr_reference as reference

GEOMETRY = ResNetGeometry(filters=8, depths=(2, 1, 2, 1))
ROOT = Path(__file__).parents[3]


class TensorFlow:
    """What SimCLRv2's code calls: explicit padding before strided convolutions, SAME elsewhere."""

    def __init__(self) -> None:
        import tensorflow

        self.tf = tensorflow

    def convolve(self, x: Any, kernel: Any, stride: int) -> Any:
        pad = (kernel.shape[0] - 1) // 2
        if stride > 1:
            x = self.tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        return self.tf.nn.conv2d(x, kernel, stride, "SAME" if stride == 1 else "VALID").numpy()

    def pool(self, x: Any, size: int, stride: int, kind: str) -> Any:
        if kind == "max":
            return self.tf.nn.max_pool2d(x, size, stride, "SAME").numpy()
        return self.tf.nn.avg_pool2d(x, size, stride, "SAME" if stride == 1 else "VALID").numpy()

    def zero_pad_end(self, x: Any) -> Any:
        return self.tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]]).numpy()


def write_maps(given: str, result: str) -> None:
    """In the process with TensorFlow: variables and images of a file to the maps of the four groups."""
    arithmetic = TensorFlow()
    with np.load(given, allow_pickle=False) as content:
        variables = {name: content[name] for name in content.files}
    maps = reference.Walk(variables, arithmetic).maps(variables.pop("images"), GEOMETRY.depths)
    np.savez(result, *maps)


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")
@pytest.mark.parametrize("size", [64, 45])
def test_maps_equal_tensorflows(size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = reference.randomised(ResNetSK(GEOMETRY)).eval()
    images = torch.rand(2, 3, size, size)
    given, result = tmp_path / "given.npz", tmp_path / "result.npz"
    last = images.permute(0, 2, 3, 1).numpy()
    arrays: dict[str, Any] = reference.tensorflow_variables(encoder)
    np.savez(given, images=last, **arrays)
    code = f"import tensorflow; from {__name__} import write_maps; write_maps({str(given)!r}, {str(result)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    with torch.no_grad():
        maps = encoder(images)
    with np.load(result, allow_pickle=False) as content:
        theirs = [content[name] for name in content.files]
    assert len(theirs) == len(maps) == 4
    for own, their in zip(maps, theirs, strict=True):
        difference = own.permute(0, 2, 3, 1).numpy() - their
        assert np.linalg.norm(difference) < 1e-5 * np.linalg.norm(their)
