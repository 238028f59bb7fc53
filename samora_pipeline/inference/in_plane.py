"""The in-plane map as products on a device: slices to the network's input, logits back to the source grid.

Shapes: B slices, C channels, H W rows and columns of the source grid, N input size, K output maps, n side of logits.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from samora_pipeline.imaging.resampling import OUTSIDE_LOGIT, InPlaneMap


class DeviceMap:
    """``InPlaneMap`` with its operators on a device; equal to it up to rounding."""

    def __init__(self, in_plane: InPlaneMap, device: torch.device, *, regions: bool) -> None:
        self._in_plane = in_plane
        self._device = device
        self._regions = regions
        self._image_rows, self._image_columns = (self._on_device(matrix) for matrix in in_plane.image_operators)
        outside = ~in_plane.field_of_view
        self._outside = self._on_device(outside) if outside.any() else None

    def image(self, images: Tensor) -> Tensor:
        """Resize images (B,C,H,W) in [0, 1] to (B,C,N,N), clipped to [0, 1]."""
        return (self._image_rows @ images @ self._image_columns.T).clamp_(0.0, 1.0)

    def logits(self, logits: Tensor) -> Tensor:
        """Interpolate logits (B,K,n,n) to the source grid (B,K,H,W); outside the field of view is background."""
        rows, columns = (self._on_device(matrix) for matrix in self._in_plane.logit_operators(logits.shape[-1]))
        scores: Tensor = rows @ logits @ columns.T
        if self._outside is not None:
            scores.masked_fill_(self._outside, -OUTSIDE_LOGIT)
            if not self._regions:
                scores[:, 0].masked_fill_(self._outside, OUTSIDE_LOGIT)
        return scores

    def _on_device(self, matrix: npt.NDArray[Any]) -> Tensor:
        # A copy, because cached operators are read-only and torch warns about sharing such memory.
        return torch.from_numpy(matrix.copy()).to(self._device)
