"""The synthetic patient as drawn: build, contrast phase, and the generator that places organs in them.

Millimetres in LPS about the middle of the trunk (see ``shapes``); Hounsfield units for substances.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from dataset_conversion.anatomy.shapes import Ellipsoid, Point, Structure, Tube


@dataclass(frozen=True)
class PatientParameters:
    """Everything that was drawn for one patient; ``render`` adds nothing of its own.

    Attributes:
        seed: seeds the random fields (deformation, texture, noise) and nothing else.
        spacing: voxel size in mm, x y z.
        top: z in mm of the uppermost slice relative to the middle of the trunk.
        build: sizes of the trunk, see ``draw_build``.
        hu: Hounsfield units by tissue, see ``draw_contrast``.
        structures: what lies inside, in painting order.
        heart: painted after the lungs, above the diaphragm.
        deformation: standard deviation in mm of the smooth deformation of space.
        noise: standard deviation in HU of the scanner's noise.
        blur: standard deviation in voxels of the reconstruction kernel, in-plane.
    """

    seed: int
    spacing: Point
    top: float
    build: dict[str, float]
    hu: dict[str, float]
    structures: tuple[Structure, ...]
    heart: Structure
    deformation: float
    noise: float
    blur: float


def draw_build(rng: np.random.Generator) -> dict[str, float]:
    """Size and shape of a trunk, mm; ``fat`` is 0 for a lean and 1 for an obese patient."""
    fat = rng.beta(1.6, 1.8)
    return {
        "fat": fat,
        "half_width": rng.uniform(114, 130) + 10 * fat,
        "half_depth": rng.uniform(78, 92) + 12 * fat,
        "wall": rng.uniform(9, 14),
        "fat_side": 7 + 24 * fat * rng.uniform(0.7, 1.2),
        "fat_front": 6 + 30 * fat * rng.uniform(0.6, 1.2),
        "fat_back": 8 + 24 * fat * rng.uniform(0.7, 1.2),
        "rib_phase": rng.uniform(0, 28),
        "dome_right": rng.uniform(112, 130),
        "dome_left": rng.uniform(104, 124),
        "table_gap": rng.uniform(1, 5),
    }


def draw_contrast(rng: np.random.Generator) -> dict[str, float]:
    """Hounsfield units by tissue; all follow ``phase`` (0 late arterial, 1 portal venous) with a scatter."""
    phase = rng.beta(1.3, 0.9)
    liver = 94 + 26 * phase + rng.normal(0, 7) - (25 if rng.random() < 0.12 else 0)
    cortex = rng.uniform(165, 200)
    return {
        "phase": phase,
        "aorta": 275 - 135 * phase + rng.normal(0, 14),
        "portal": 100 + 60 * phase + rng.normal(0, 10),
        "cava": 85 + 50 * phase + rng.normal(0, 10),
        "liver": liver,
        "spleen": float(np.clip(liver + rng.normal(12, 9), 92, 148)),
        "cortex": cortex,
        "medulla": cortex - (75 - 55 * phase) * rng.uniform(0.8, 1.1),
        "pancreas": float(np.clip(108 - 16 * phase + rng.normal(0, 9), 70, 116)),
        "bile": rng.uniform(0, 24),
        "wall": rng.uniform(66, 96),
        "muscle": rng.uniform(52, 68),
        "oral": rng.uniform(5, 35) if rng.random() < 0.7 else rng.uniform(120, 260),
    }


class Sampler:
    """What the organs of one patient are drawn with: the generator, the build, the contrast and the scale.

    Anatomy is written for a trunk whose cavity is 120 mm half wide and 84 mm half deep, then scaled to the patient.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.build = draw_build(rng)
        self.hu = draw_contrast(rng)
        self.scale = (self.build["half_width"] / 120, self.build["half_depth"] / 84, rng.uniform(0.94, 1.06))
        self.halo = 0.8 + 3.5 * self.build["fat"]

    def points(self, points: Sequence[Point], shift: float, jitter: float = 0.0) -> list[Point]:
        """Scale reference points to the patient; all move by one draw of sd ``shift`` mm, each by one of ``jitter``."""
        moved = np.asarray(points, dtype=float) + self.rng.normal(0, shift, 3)
        moved = (moved + self.rng.normal(0, jitter, moved.shape)) * self.scale
        return [(row[0], row[1], row[2]) for row in moved.tolist()]

    def around(self, mean: float, spread: float) -> float:
        """A size around ``mean``, at most two ``spread`` away (relative)."""
        return float(mean * (1 + spread * np.clip(self.rng.normal(), -2, 2)))

    def ball(
        self, centre: Point, radii: Point, shift: float, yaw: float = 0.0, lean: tuple[float, float] = (0.0, 0.0)
    ) -> Ellipsoid:
        """An ellipsoid about a reference point that moves by a draw of sd ``shift`` mm."""
        return Ellipsoid(self.points([centre], shift)[0], radii, yaw, lean)

    def tube(
        self, course: Sequence[Point], radii: Sequence[float], moves: Point = (0.0, 0.0, 0.0), stretch: float = 1.0
    ) -> Tube:
        """A smooth tube near a course of reference points.

        ``moves`` are the sd in mm by which all points move and each of them, and the relative spread of the radii.
        """
        return curve(self.points(course, *moves[:2]), [self.around(radius, moves[2]) for radius in radii], stretch)


def curve(points: Sequence[Point], radii: Sequence[float], stretch: float = 1.0, steps: int = 2) -> Tube:
    """A smooth tube through ``points`` in the patient, in ``steps`` straight pieces from each to the next."""
    knots = np.column_stack([np.asarray(points, dtype=float), np.asarray(radii, dtype=float)])
    spline = CubicSpline(np.arange(len(knots)), knots)
    found = spline(np.linspace(0, len(knots) - 1, steps * (len(knots) - 1) + 1)).tolist()
    return Tube(tuple((x, y, z) for x, y, z, _ in found), tuple(max(row[3], 1.0) for row in found), stretch)
