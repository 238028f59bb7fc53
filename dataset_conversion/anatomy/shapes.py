"""Solids of the synthetic patient: signed distances in millimetres, and the structures built from them.

Coordinates are in mm relative to the middle of the trunk, in DICOM's LPS directions: x to the patient's left, y to the
back, z to the head. A signed distance is negative inside. Everything here is frozen: a patient is data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid turned by ``yaw`` radians about z, then leaning by ``lean`` mm in x and y per mm of height."""

    centre: Point
    radii: Point
    yaw: float = 0.0
    lean: tuple[float, float] = (0.0, 0.0)

    def extent(self) -> tuple[Point, Point]:
        """Lowest and highest corner of a box that contains the solid, mm."""
        reach = max(self.radii[:2])
        reaches = [min(reach, abs(a) + abs(b)) + abs(slope) * self.radii[2] for a, b, slope in self._spans()]
        spans = (*reaches, self.radii[2])
        return (
            (self.centre[0] - spans[0], self.centre[1] - spans[1], self.centre[2] - spans[2]),
            (self.centre[0] + spans[0], self.centre[1] + spans[1], self.centre[2] + spans[2]),
        )

    def _spans(self) -> list[tuple[float, float, float]]:
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        a, b = self.radii[:2]
        return [(a * cos, b * sin, self.lean[0]), (a * sin, b * cos, self.lean[1])]

    def distance(self, x: Field, y: Field, z: Field) -> Field:
        """Signed distance in mm, exact on the surface and first-order around it."""
        dz = z - self.centre[2]
        dx, dy = x - self.centre[0] - self.lean[0] * dz, y - self.centre[1] - self.lean[1] * dz
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        a, b, c = self.radii
        u, v, w = (cos * dx + sin * dy) / a, (cos * dy - sin * dx) / b, dz / c
        size = np.sqrt(u * u + v * v + w * w)
        slope = np.sqrt((u / a) ** 2 + (v / b) ** 2 + (w / c) ** 2)
        return (size * (size - 1.0) / np.maximum(slope, 1e-6)).astype(np.float32)


@dataclass(frozen=True)
class Segment:
    """A round cone between two points; ``stretch`` makes its cross-section taller in z (1 = round)."""

    start: Point
    end: Point
    start_radius: float
    end_radius: float
    stretch: float = 1.0

    def extent(self) -> tuple[Point, Point]:
        """Lowest and highest corner of a box that contains the solid, mm."""
        reach = max(self.start_radius, self.end_radius)
        spans = (reach, reach, reach * self.stretch)
        low = [min(a, b) - span for a, b, span in zip(self.start, self.end, spans, strict=True)]
        high = [max(a, b) + span for a, b, span in zip(self.start, self.end, spans, strict=True)]
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def distance(self, x: Field, y: Field, z: Field) -> Field:
        """Signed distance in mm to the surface of the cone (in the z-squeezed space when stretched)."""
        along = [self.end[0] - self.start[0], self.end[1] - self.start[1], (self.end[2] - self.start[2]) / self.stretch]
        dx, dy, dz = x - self.start[0], y - self.start[1], (z - self.start[2]) / self.stretch
        length = max(along[0] ** 2 + along[1] ** 2 + along[2] ** 2, 1e-6)
        t = np.clip((dx * along[0] + dy * along[1] + dz * along[2]) / length, 0.0, 1.0)
        gap = np.sqrt((dx - t * along[0]) ** 2 + (dy - t * along[1]) ** 2 + (dz - t * along[2]) ** 2)
        result: Field = gap - (self.start_radius + t * (self.end_radius - self.start_radius))
        return result


Solid = Ellipsoid | Segment


@dataclass(frozen=True)
class Structure:
    """One thing to paint: where it is, what it weighs in Hounsfield units, and what label it leaves behind.

    Attributes:
        name: for people and tests.
        solids: their union is the structure.
        hu: Hounsfield units of the substance, or of the wall when ``core_hu`` is given.
        label: value left in the label volume; 0 wipes labels below it, ``None`` keeps them.
        blend: mm over which the union of solids is rounded.
        roughness: mm by which the surface is pushed in and out by a smooth random field.
        halo: mm of fat around the structure that keeps it apart from what was painted before.
        rind: thickness in mm of the wall or cortex around ``core_hu``.
        core_hu: Hounsfield units inside the rind; ``None`` for a solid organ.
        texture: standard deviation in HU of the slow inner variation.
        gas_above: y in mm in front of which the lumen holds gas (patients lie on their back); ``None`` for no gas.
        mottle: 0 to 1, how much of the lumen is broken up by gas bubbles (stool, food).
        within: paint only where this label already is.
        confined: keep inside the abdominal cavity and below the diaphragm.
    """

    name: str
    solids: tuple[Solid, ...]
    hu: float
    label: int | None = 0
    blend: float = 0.0
    roughness: float = 0.0
    halo: float = 0.0
    rind: float = 0.0
    core_hu: float | None = None
    texture: float = 0.0
    gas_above: float | None = None
    mottle: float = 0.0
    within: int | None = None
    confined: bool = True


def tube(points: Sequence[Point], radii: Sequence[float], stretch: float = 1.0, steps: int = 3) -> tuple[Segment, ...]:
    """A smooth tube (Catmull-Rom) through ``points`` whose radius follows ``radii``, as ``steps`` cones per span."""
    knots = np.column_stack([np.asarray(points, dtype=float), np.asarray(radii, dtype=float)])
    padded = np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]])
    t = np.linspace(0.0, 1.0, steps, endpoint=False)[:, None]
    rows = []
    for before, here, there, after in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        bend = (2 * before - 5 * here + 4 * there - after) * t**2 + (3 * (here - there) + after - before) * t**3
        rows.append(0.5 * (2 * here + (there - before) * t + bend))
    curve = np.vstack([*rows, knots[-1:]])
    return tuple(
        Segment((a[0], a[1], a[2]), (b[0], b[1], b[2]), max(a[3], 1.0), max(b[3], 1.0), stretch)
        for a, b in zip(curve.tolist(), curve.tolist()[1:], strict=False)
    )


def smooth_minimum(first: Field, second: Field, width: float) -> Field:
    """Union of two signed distances, rounded over ``width`` mm (0: the plain minimum)."""
    if width <= 0:
        return np.minimum(first, second)
    overlap = np.maximum(width - np.abs(first - second), 0.0) / width
    result: Field = np.minimum(first, second) - (overlap * overlap * width / 4).astype(np.float32)
    return result
