"""Synthetic abdominal CT: a seeded patient is drawn first, then rendered, so that its picture can be had again.

``draw_patient(seed)`` decides everything (build, contrast phase, where each organ lies); ``render(parameters)`` only
applies it. The volumes are 24 slices of 128 x 128 in Hounsfield units with the eight organs of the Synapse protocol.
They serve tests, the demonstration and continuous integration; they say nothing about patients.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dataset_conversion.anatomy import organs, surroundings
from dataset_conversion.anatomy.canvas import SHAPE, Canvas
from dataset_conversion.anatomy.patient import PatientParameters, Sampler, draw_build, draw_contrast
from dataset_conversion.anatomy.shapes import Structure

LABELS = {"background": 0, **{name: value for value, name in enumerate(organs.ORGANS, start=1)}}
# Voxels below which a separated piece of an organ counts as a crumb.
SPECK = 20


def draw_patient(seed: int) -> PatientParameters:
    """Draw the patient that belongs to ``seed``; the same seed gives an equal dataclass."""
    rng = np.random.default_rng((seed, 1))
    build = draw_build(rng)
    contrast = draw_contrast(rng)
    draw = Sampler(rng, build, contrast)
    outer = max(build.half_width + build.fat_side, build.half_depth + max(build.fat_front, build.fat_back)) + build.wall
    pixel = float(np.clip(outer * 2.2 / SHAPE[0], 2.55, 3.15))
    thickness = float(rng.uniform(7.6, 8.4))
    return PatientParameters(
        seed=seed,
        spacing=(pixel, pixel, thickness),
        top=float(rng.uniform(86, 104)),
        build=build,
        contrast=contrast,
        structures=_structures(draw),
        heart=surroundings.heart(draw),
        deformation=float(rng.uniform(4, 8)),
        noise=float(rng.uniform(14, 21)),
        blur=float(rng.uniform(0.45, 0.7)),
    )


def render(parameters: PatientParameters) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.float64]]:
    """Paint a patient.

    Returns:
        ``(hu, labels, affine)``: int16 [128, 128, 24] in Hounsfield units, uint8 of the same shape with ``LABELS``, and
        the 4 x 4 matrix from voxel indices to NIfTI's RAS millimetres.
    """
    canvas = Canvas(parameters)
    canvas.paint_trunk()
    for structure in parameters.structures:
        canvas.paint(structure)
    canvas.paint_lungs()
    canvas.paint(parameters.heart)
    canvas.paint_ribs()
    return canvas.scan(), _without_specks(canvas.labels), canvas.affine()


def _structures(draw: Sampler) -> tuple[Structure, ...]:
    """Everything inside the wall, in painting order: later structures push earlier ones aside."""
    return (
        *surroundings.back_muscles(draw),
        *surroundings.spine(draw),
        *surroundings.large_bowel(draw),
        *surroundings.small_bowel(draw),
        *surroundings.mesentery(draw),
        *surroundings.great_vessels(draw),
        surroundings.duodenum(draw),
        *surroundings.splanchnic_vessels(draw),
        surroundings.oesophagus(draw),
        organs.stomach(draw),
        organs.pancreas(draw),
        *organs.liver(draw),
        organs.gallbladder(draw),
        organs.spleen(draw),
        *organs.kidney(draw, organs.RIGHT_KIDNEY),
        *organs.kidney(draw, organs.LEFT_KIDNEY),
    )


def _without_specks(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Remove crumbs that overlaps have cut off: no reader would have drawn them."""
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        parts, count = ndimage.label(labels[box] == value)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        labels[box][(parts > 0) & (sizes[parts] < SPECK)] = 0
    return labels
