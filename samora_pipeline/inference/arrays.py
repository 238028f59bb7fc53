"""Arrays without a file: what their axes mean is said in words, and they become volumes like any other.

Shapes: C channels; Z Y X the axes of an array as SimpleITK gives it, slices first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from samora_pipeline.imaging.volume import Volume, make_grid

SLICES_ROWS_COLUMNS = "SPL"
"""first axis to the head (superior), second to the back (posterior), third to the patient's left"""

_WORLD = ("RL", "AP", "SI")


def array_volumes(array: npt.NDArray[Any], spacing: Sequence[float], axes: str) -> tuple[Volume, ...]:
    """Turn an array (Z,Y,X) or (C,Z,Y,X) into one volume per channel, on a grid that begins at the origin.

    Args:
        array: intensities in source units (HU for CT).
        spacing: mm between neighbours along each of the three axes, in the order of the axes.
        axes: the anatomical direction in which the index of each axis grows, one letter each of R/L, A/P, S/I.

    Raises:
        ValueError: another number of axes, spacings that are not three positive numbers, or letters that do not name
            three directions.
    """
    if array.ndim not in (3, 4):
        raise ValueError(f"an array (Z,Y,X) or (C,Z,Y,X) is needed, not one of shape {array.shape}")
    if len(spacing) != 3 or not all(np.isfinite(step) and step > 0 for step in spacing):
        raise ValueError(f"spacing must be three positive numbers in mm, not {tuple(spacing)}")
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    for axis, (letter, step) in enumerate(zip(axes, spacing, strict=False)):
        world = next((number for number, pair in enumerate(_WORLD) if letter in pair), None)
        if world is not None:
            affine[world, axis] = step if letter in "RAS" else -step
    if len(axes) != 3 or np.linalg.matrix_rank(affine) != 4:
        raise ValueError(f'axes must be one letter each of R or L, A or P, S or I, such as "SPL", not "{axes}"')
    channels = array[None] if array.ndim == 3 else array
    return tuple(Volume(channel, make_grid(channel.shape, affine), Path("array")) for channel in channels)
