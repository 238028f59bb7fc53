"""Solids of the synthetic patient: signed distances in millimetres, and the structures built from them.

Coordinates are in mm relative to the middle of the trunk, in DICOM's LPS directions: x to the patient's left, y to the
back, z to the head. A signed distance is negative inside. Everything here is frozen: a patient is data.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid turned by ``yaw`` radians about z, then leaning by ``lean`` mm in x and y per mm of height."""

    centre: Point
    radii: Point
    yaw: float = 0.0
    lean: tuple[float, float] = (0.0, 0.0)

    def extent(self) -> tuple[Field, Field]:
        """Lowest and highest corner of a box that contains the solid, mm."""
        wide, height = max(self.radii[:2]), self.radii[2]
        reach = np.array([wide + abs(self.lean[0]) * height, wide + abs(self.lean[1]) * height, height])
        return self.centre - reach, self.centre + reach

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
class Tube:
    """A tube through ``points`` whose radius goes from one of ``radii`` to the next; ``stretch`` makes it tall in z."""

    points: tuple[Point, ...]
    radii: tuple[float, ...]
    stretch: float = 1.0

    def extent(self) -> tuple[Field, Field]:
        """Lowest and highest corner of a box that contains the solid, mm."""
        points, reach = np.array(self.points), max(self.radii) * np.array([1, 1, self.stretch])
        return points.min(axis=0) - reach, points.max(axis=0) + reach

    def distance(self, x: Field, y: Field, z: Field) -> Field:
        """Signed distance in mm to the nearest of the round cones (in the z-squeezed space when stretched)."""
        squeeze = np.array([1, 1, 1 / self.stretch])
        nearest = np.full(x.shape, np.inf, dtype=np.float32)
        for start, end, first, last in zip(self.points, self.points[1:], self.radii, self.radii[1:], strict=False):
            dx, dy, dz = x - start[0], y - start[1], (z - start[2]) / self.stretch
            a, b, c = ((np.array(end) - start) * squeeze).tolist()
            t = np.clip((dx * a + dy * b + dz * c) / max(a * a + b * b + c * c, 1e-6), 0.0, 1.0)
            gap = np.sqrt((dx - t * a) ** 2 + (dy - t * b) ** 2 + (dz - t * c) ** 2)
            nearest = np.minimum(nearest, gap - (first + t * (last - first)))
        return nearest


@dataclass(frozen=True)
class Structure:
    """One thing to paint: where it is, what it weighs in Hounsfield units, and what label it leaves behind.

    Attributes:
        solids: their union is the structure.
        hu: Hounsfield units of the substance, or of the wall when ``core`` is given.
        label: value left in the label volume; 0 wipes labels below it, ``None`` keeps them.
        rind: thickness in mm of the wall or cortex around ``core``.
        core: Hounsfield units inside the rind; ``None`` for a solid organ.
        texture: standard deviation in HU of the slow inner variation.
        rough: mm by which the surface is pushed in and out by a smooth random field.
        halo: mm of fat around the structure that keeps it apart from what was painted before.
        blend: mm over which the union of solids is rounded.
        gas: y in mm in front of which the lumen holds gas (patients lie on their back); ``None`` for no gas.
        mottle: 0 to 1, how much of the lumen is broken up by gas bubbles (stool, food).
        within: paint only where this label already is.
        rigid: follow the small deformation of bone and wall, also beyond the abdominal cavity.
    """

    solids: tuple[Ellipsoid | Tube, ...]
    hu: float
    label: int | None = 0
    rind: float = 0.0
    core: float | None = None
    texture: float = 0.0
    rough: float = 0.0
    halo: float = 0.0
    blend: float = 0.0
    gas: float | None = None
    mottle: float = 0.0
    within: int | None = None
    rigid: bool = False


def smooth_minimum(first: Field, second: Field, width: float) -> Field:
    """Union of two signed distances, rounded over ``width`` mm (0: the plain minimum)."""
    overlap = np.maximum(width - np.abs(first - second), 0.0) if width > 0 else 0.0
    return (np.minimum(first, second) - overlap * overlap / max(4 * width, 1.0)).astype(np.float32)
