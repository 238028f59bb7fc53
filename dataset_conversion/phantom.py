"""Synthetic abdominal CT: a seeded patient is drawn first, then rendered, so that its image can be had again.

``draw_patient(seed)`` decides everything (build, contrast phase, where each organ lies); ``render(parameters)`` only
applies it. The volumes are 24 slices of 128 x 128 in Hounsfield units with the eight organs of the Synapse protocol.
They serve tests, the demonstration and continuous integration; they say nothing about patients.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dataset_conversion.anatomy import organs
from dataset_conversion.anatomy.canvas import SHAPE, Canvas
from dataset_conversion.anatomy.patient import PatientParameters, Sampler
from dataset_conversion.synapse_labels import ORGANS

LABELS = {"background": 0, **{name: value for value, name in enumerate(ORGANS, start=1)}}
# Voxels below which a separated piece of an organ is removed.
SPECK = 20


def draw_patient(seed: int) -> PatientParameters:
    """Draw the patient that belongs to ``seed``; the same seed gives an equal dataclass."""
    rng = np.random.default_rng((seed, 1))
    draw = Sampler(rng)
    build = draw.build
    deep = build["half_depth"] + max(build["fat_front"], build["fat_back"])
    outer = max(build["half_width"] + build["fat_side"], deep) + build["wall"]
    pixel = float(np.clip(outer * 2.2 / SHAPE[0], 2.55, 3.15))
    return PatientParameters(
        seed=seed,
        spacing=(pixel, pixel, rng.uniform(7.6, 8.4)),
        top=rng.uniform(86, 104),
        build=build,
        hu=draw.hu,
        structures=tuple(organs.everything(draw)),
        heart=organs.heart(draw),
        deformation=rng.uniform(4, 8),
        noise=rng.uniform(14, 21),
        blur=rng.uniform(0.45, 0.7),
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


def _without_specks(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Remove small components that overlaps have cut off: no reader would have drawn them."""
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        parts, count = ndimage.label(labels[box] == value)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        labels[box][(parts > 0) & (sizes[parts] < SPECK)] = 0
    return labels
