"""Resizing of slices as small matrices: cubic spline for images, nearest for labels, linear for logits.

Spline resizing is linear and separable, so the one-dimensional operator is what scipy makes of an identity matrix; an
image is then two matrix products. All operators follow the half-pixel convention (the outer edges of the field of view
coincide) and repeat the edge pixel beyond it.

Shape legend: H, W source rows and columns; N the network's input size; n the size of its low-resolution logits;
K outputs.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.stored_case import StoredCase
from samora_pipeline.errors import DataError

OUTSIDE_LOGIT = 20.0
"""Logit of the background (and, negated, of all else) where the network saw nothing."""

LARGEST_SIDE = 16384
"""pixels along a side of a slice while it is resampled; a plan may come from anywhere"""

_BAND = 32
# Together the weights left out stay below a tenth of what 32-bit floats resolve.
_NEGLIGIBLE = 1e-9

Matrix = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AxisMap:
    """One axis of the in-plane rule: ``source`` pixels are resampled to ``resampled``, ``before`` pixels of padding
    (negative: cropping) lead to ``frame`` pixels, and these are resized to ``target``.
    """

    source: int
    resampled: int
    before: int
    frame: int
    target: int


@dataclass(frozen=True)
class InPlaneMap:
    """The way of a slice from the source grid (H, W) to the network's input (N, N), and of logits back.

    ``rows`` and ``columns`` may be used for the same products on a device: see ``image_operators``.
    """

    rows: AxisMap
    columns: AxisMap

    @classmethod
    def for_plan(cls, rows: int, cols: int, spacing: tuple[float, float], plans: Plans, input_size: int) -> Self:
        """Build the map for slices of ``rows`` x ``cols`` pixels of ``spacing`` (mm per row, mm per column) to a
        network's input of ``input_size`` pixels a side.

        Raises:
            DataError: ``E-PLAN-16`` the plan's pixels are so small that a slice has too many of them.
        """
        if plans.in_plane.value == "shrink_and_pad":
            return cls(*_shrinking_maps((rows, cols), spacing, plans, input_size))
        return cls(_axis_map(rows, spacing[0], plans, input_size), _axis_map(cols, spacing[1], plans, input_size))

    @classmethod
    def for_case(cls, record: StoredCase, plans: Plans, input_size: int) -> Self:
        """Build the map for the slices of a stored case."""
        _, rows, cols = record.shape
        return cls.for_plan(rows, cols, record.geometry.spacing[1:], plans, input_size)

    @property
    def image_operators(self) -> tuple[Matrix, Matrix]:
        """(rows [N, H], columns [N, W]): an image x becomes ``rows @ x @ columns.T``, to be clipped to [0, 1]."""
        return image_operator(self.rows), image_operator(self.columns)

    def logit_operators(self, size: int) -> tuple[Matrix, Matrix]:
        """(rows [H, n], columns [W, n]): logits z [n, n] become ``rows @ z @ columns.T`` on the source grid.

        Rows of zeros belong to source pixels outside the field of view.
        """
        return logit_operator(self.rows, size), logit_operator(self.columns, size)

    @property
    def field_of_view(self) -> npt.NDArray[np.bool_]:
        """Source pixels [H, W] that the network sees."""
        inside_rows, inside_columns = _positions(self.rows)[1], _positions(self.columns)[1]
        return inside_rows[:, None] & inside_columns[None, :]

    def image(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Resize images [..., H, W] in [0, 1] to [..., N, N], clipped to [0, 1]; padding is 0."""
        half = np.empty((*images.shape[:-2], self.rows.target, images.shape[-1]), dtype=np.float32)
        for band in _bands(self.rows):
            np.matmul(band.weights, images[..., band.source, :], out=half[..., band.target, :])
        resized = np.empty((*half.shape[:-1], self.columns.target), dtype=np.float32)
        for band in _bands(self.columns):
            np.matmul(half[..., band.source], band.weights.T, out=resized[..., band.target])
        return np.clip(resized, 0.0, 1.0, out=resized)

    def labels(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resize labels [..., H, W] to [..., N, N] by the nearest source pixel; padding is 0 (background)."""
        rows, columns = label_indices(self.rows), label_indices(self.columns)
        resized = labels[..., rows.clip(0)[:, None], columns.clip(0)[None, :]]
        resized[..., rows < 0, :] = 0
        resized[..., :, columns < 0] = 0
        return resized

    def logits(self, logits: npt.NDArray[np.float32], regions: bool = False) -> npt.NDArray[np.float32]:
        """Interpolate logits [..., K, n, n] of the network's frame linearly to the source grid [..., K, H, W].

        Outside the field of view there is background: output 0 gets ``OUTSIDE_LOGIT`` and the others its negative;
        with ``regions`` all outputs get the negative.
        """
        result = _apply(*self.logit_operators(logits.shape[-1]), logits)
        outside = ~self.field_of_view
        if outside.any():
            result[..., outside] = -OUTSIDE_LOGIT
            if not regions:
                result[..., 0, outside] = OUTSIDE_LOGIT
        return result


@dataclass(frozen=True)
class _Band:
    """Some neighbouring target pixels of an axis, the source pixels that they depend on, and the weights of these."""

    target: slice
    source: slice
    weights: Matrix


@lru_cache(maxsize=256)
def _bands(axis: AxisMap) -> tuple[_Band, ...]:
    """The operator of an axis in parts without the weights that are too small to matter.

    A cubic spline's weights fall off by 0.27 per pixel: a band of pixels needs a small part of the source.
    """
    operator = image_operator(axis)
    bands = []
    for start in range(0, axis.target, _BAND):
        rows = operator[start : start + _BAND]
        used = np.flatnonzero(np.abs(rows).max(axis=0) > _NEGLIGIBLE)
        source = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 1)
        bands.append(_Band(slice(start, start + len(rows)), source, np.ascontiguousarray(rows[:, source])))
    return tuple(bands)


def _apply(rows: Matrix, columns: Matrix, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``rows @ image @ columns.T`` for images [..., H, W]."""
    half = np.matmul(rows, images)
    # One large product instead of many small ones with a transposed factor: ten times faster.
    whole: npt.NDArray[np.float32] = half.reshape(-1, half.shape[-1]) @ columns.T
    return whole.reshape(*half.shape[:-1], len(columns))


@lru_cache(maxsize=256)
def spline_operator(source: int, target: int) -> Matrix:
    """The matrix [target, source] of cubic spline resizing, as ``scipy.ndimage.zoom`` computes it."""
    if source == target:
        return _frozen(np.eye(source, dtype=np.float32))
    operator = ndimage.zoom(np.eye(source), (target / source, 1.0), order=3, mode="nearest", grid_mode=True)
    return _frozen(operator.astype(np.float32))


@lru_cache(maxsize=256)
def nearest_indices(source: int, target: int) -> Indices:
    """For each target pixel the nearest source pixel, as ``scipy.ndimage.zoom`` of order 0 picks it."""
    pixels = np.arange(source, dtype=np.float64)
    picked = ndimage.zoom(pixels, target / source, order=0, mode="nearest", grid_mode=True)
    return _frozen(picked.astype(np.int64))


@lru_cache(maxsize=256)
def image_operator(axis: AxisMap) -> Matrix:
    """The matrix [target, source] of a whole axis: resample, pad or crop, resize."""
    resampled = spline_operator(axis.source, axis.resampled)
    framed = np.zeros((axis.frame, axis.source), dtype=np.float32)
    source, target = _overlap(axis)
    framed[target] = resampled[source]
    if axis.frame == axis.target:
        return _frozen(framed)
    return _frozen(spline_operator(axis.frame, axis.target) @ framed)


@lru_cache(maxsize=256)
def label_indices(axis: AxisMap) -> Indices:
    """For each input pixel the source pixel, or -1 in the padding."""
    framed = np.full(axis.frame, -1, dtype=np.int64)
    source, target = _overlap(axis)
    framed[target] = nearest_indices(axis.source, axis.resampled)[source]
    return _frozen(framed[nearest_indices(axis.frame, axis.target)])


@lru_cache(maxsize=256)
def logit_operator(axis: AxisMap, size: int) -> Matrix:
    """The matrix [source, size] of linear interpolation from ``size`` pixels that cover the frame."""
    fractions, inside = _positions(axis)
    position = np.clip(fractions * size - 0.5, 0.0, size - 1.0)
    lower = np.minimum(np.floor(position).astype(np.int64), max(size - 2, 0))
    upper = np.minimum(lower + 1, size - 1)
    weight = (position - lower).astype(np.float32)
    operator = np.zeros((axis.source, size), dtype=np.float32)
    pixels = np.arange(axis.source)
    np.add.at(operator, (pixels, lower), 1.0 - weight)
    np.add.at(operator, (pixels, upper), weight)
    operator[~inside] = 0.0
    return _frozen(operator)


def _positions(axis: AxisMap) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Where the centres of the source pixels lie in the frame (0 and 1 are its edges), and which are inside it."""
    centres = (np.arange(axis.source) + 0.5) * axis.resampled / axis.source
    fractions = (centres + axis.before) / axis.frame
    return fractions, (fractions >= 0.0) & (fractions <= 1.0)


def _overlap(axis: AxisMap) -> tuple[slice, slice]:
    start = max(-axis.before, 0)
    stop = min(axis.resampled, axis.frame - axis.before)
    return slice(start, stop), slice(start + axis.before, stop + axis.before)


def _axis_map(source: int, spacing: float, plans: Plans, input_size: int) -> AxisMap:
    frame = plans.slice_size.value or input_size
    wanted = plans.in_plane_spacing.value
    if plans.in_plane.value == "resize" or wanted is None:
        return AxisMap(source, frame, 0, frame, input_size)
    resampled = _bounded(source * spacing / wanted)
    return AxisMap(source, resampled, (frame - resampled) // 2, frame, input_size)


def _bounded(pixels: float) -> int:
    """Whole pixels along a side, refused where they are so many that the operators would not fit into memory."""
    if not pixels <= LARGEST_SIDE:
        raise DataError("E-PLAN-16", largest=LARGEST_SIDE, found=f"{pixels:.3g} pixels")
    return max(1, round(pixels))


def _shrinking_maps(
    sizes: tuple[int, int], spacing: tuple[float, float], plans: Plans, input_size: int
) -> list[AxisMap]:
    """Both axes of ``shrink_and_pad``; they share a square frame, so that the proportions stay."""
    finest = plans.in_plane_spacing.value or 0.0
    resampled = [
        _bounded(size * own / finest) if own < finest else size for size, own in zip(sizes, spacing, strict=True)
    ]
    frame = max(*resampled, input_size)
    return [
        AxisMap(size, wanted, (frame - wanted) // 2, frame, input_size)
        for size, wanted in zip(sizes, resampled, strict=True)
    ]


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array.setflags(write=False)
    return array
