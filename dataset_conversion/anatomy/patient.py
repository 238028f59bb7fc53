"""The synthetic patient as drawn: build, contrast phase, and the generator that places organs in them.

Millimetres in LPS about the middle of the trunk (see ``shapes``); Hounsfield units for substances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset_conversion.anatomy.shapes import Point, Structure


@dataclass(frozen=True)
class Build:
    """Size and shape of the trunk, mm. ``fat`` is 0 for a lean and 1 for an obese patient."""

    half_width: float
    half_depth: float
    wall: float
    fat_side: float
    fat_front: float
    fat_back: float
    fat: float
    rib_phase: float
    dome_right: float
    dome_left: float
    table_gap: float


@dataclass(frozen=True)
class Contrast:
    """Hounsfield units after contrast agent; all follow ``phase`` (0 late arterial, 1 portal venous) with a scatter."""

    phase: float
    aorta: float
    portal: float
    cava: float
    liver: float
    spleen: float
    cortex: float
    medulla: float
    pancreas: float
    bile: float
    wall: float
    muscle: float
    oral: float


def draw_build(rng: np.random.Generator) -> Build:
    """Draw a trunk."""
    fat = float(rng.beta(1.6, 1.8))
    return Build(
        half_width=rng.uniform(114, 130) + 10 * fat,
        half_depth=rng.uniform(78, 92) + 12 * fat,
        wall=rng.uniform(9, 14),
        fat_side=7 + 24 * fat * rng.uniform(0.7, 1.2),
        fat_front=6 + 30 * fat * rng.uniform(0.6, 1.2),
        fat_back=8 + 24 * fat * rng.uniform(0.7, 1.2),
        fat=fat,
        rib_phase=rng.uniform(0, 28),
        dome_right=rng.uniform(112, 130),
        dome_left=rng.uniform(104, 124),
        table_gap=rng.uniform(1, 5),
    )


def draw_contrast(rng: np.random.Generator) -> Contrast:
    """Draw a contrast phase and what it does to each tissue."""
    phase = float(rng.beta(1.3, 0.9))
    liver = 94 + 26 * phase + rng.normal(0, 7) - (25 if rng.random() < 0.12 else 0)
    cortex = rng.uniform(165, 200)
    return Contrast(
        phase=phase,
        aorta=275 - 135 * phase + rng.normal(0, 14),
        portal=100 + 60 * phase + rng.normal(0, 10),
        cava=85 + 50 * phase + rng.normal(0, 10),
        liver=liver,
        spleen=float(np.clip(liver + rng.normal(12, 9), 92, 148)),
        cortex=cortex,
        medulla=cortex - (75 - 55 * phase) * rng.uniform(0.8, 1.1),
        pancreas=float(np.clip(108 - 16 * phase + rng.normal(0, 9), 70, 116)),
        bile=rng.uniform(0, 24),
        wall=rng.uniform(66, 96),
        muscle=rng.uniform(52, 68),
        oral=float(rng.choice([rng.uniform(5, 35), rng.uniform(120, 260)], p=[0.7, 0.3])),
    )


@dataclass(frozen=True)
class PatientParameters:
    """Everything that was drawn for one patient; ``render`` adds nothing of its own.

    Attributes:
        seed: seeds the random fields (deformation, texture, noise) and nothing else.
        spacing: voxel size in mm, x y z.
        top: z in mm of the uppermost slice relative to the middle of the trunk.
        build: the trunk.
        contrast: Hounsfield units by tissue.
        structures: what lies inside, in painting order.
        heart: painted after the lungs, above the diaphragm.
        deformation: standard deviation in mm of the smooth deformation of space.
        noise: standard deviation in HU of the scanner's noise.
        blur: standard deviation in voxels of the reconstruction kernel, in-plane.
    """

    seed: int
    spacing: tuple[float, float, float]
    top: float
    build: Build
    contrast: Contrast
    structures: tuple[Structure, ...]
    heart: Structure
    deformation: float
    noise: float
    blur: float


class Sampler:
    """What the organs of one patient are drawn with: the generator, the build, the contrast and the scale.

    Anatomy is written for a trunk whose cavity is 120 mm half wide and 84 mm half deep, then scaled to the patient.
    """

    def __init__(self, rng: np.random.Generator, build: Build, contrast: Contrast) -> None:
        self.rng = rng
        self.build = build
        self.hu = contrast
        self.scale = (build.half_width / 120, build.half_depth / 84, float(rng.uniform(0.94, 1.06)))
        self.halo = 0.8 + 3.5 * build.fat

    def points(self, points: Sequence[Point], shift: float, jitter: float) -> list[Point]:
        """Scale reference points to the patient; all move by one draw of sd ``shift`` mm, each by one of ``jitter``."""
        moved = np.asarray(points, dtype=float) + self.rng.normal(0, shift, 3)
        moved = (moved + self.rng.normal(0, jitter, moved.shape)) * self.scale
        return [(row[0], row[1], row[2]) for row in moved.tolist()]

    def place(self, point: Point, shift: float) -> Point:
        """Scale one reference point to the patient and move it by a draw of sd ``shift`` mm."""
        return self.points([point], shift, 0.0)[0]

    def around(self, mean: float, spread: float) -> float:
        """A size around ``mean``, at most two ``spread`` away (relative)."""
        return float(mean * (1 + spread * np.clip(self.rng.normal(), -2, 2)))
