"""The SimCLRv2 encoder against TensorFlow's own convolutions and pooling, where TensorFlow is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from samora_pipeline.models.teachers.resnet_sk import ResNetGeometry, ResNetSK
from tests.models.teachers import simclr_reference as reference

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")


class TensorFlow:
    """What SimCLRv2's code calls: explicit padding before strided convolutions, SAME elsewhere."""

    def convolve(self, x: Any, kernel: Any, stride: int) -> Any:
        pad = (kernel.shape[0] - 1) // 2
        if stride > 1:
            x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        return tf.nn.conv2d(x, kernel, stride, "SAME" if stride == 1 else "VALID").numpy()

    def pool(self, x: Any, size: int, stride: int, kind: str) -> Any:
        if kind == "max":
            return tf.nn.max_pool2d(x, size, stride, "SAME").numpy()
        return tf.nn.avg_pool2d(x, size, stride, "SAME" if stride == 1 else "VALID").numpy()

    def zero_pad_end(self, x: Any) -> Any:
        return tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]]).numpy()


@pytest.mark.parametrize("size", [64, 48, 45])
def test_maps_equal_tensorflows(size: int) -> None:
    torch.manual_seed(0)
    geometry = ResNetGeometry(filters=8, depths=(2, 1, 2, 1))
    encoder = reference.randomised(ResNetSK(geometry)).eval()
    images = torch.rand(2, 3, size, size)
    walk = reference.Walk(reference.tensorflow_variables(encoder), TensorFlow())
    expected = walk.maps(images.permute(0, 2, 3, 1).numpy(), geometry.depths)
    with torch.no_grad():
        maps = encoder(images)
    for own, theirs in zip(maps, expected, strict=True):
        difference = own.permute(0, 2, 3, 1).numpy() - theirs
        assert np.linalg.norm(difference) < 1e-5 * np.linalg.norm(theirs)
