"""Files of scans as the converters take them: pictures beside volumes, channels apart, files that can stay as they are.

Shape legend: X, Y, Z raw axes in file order; C channels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.pictures import is_picture, read_picture
from samora_pipeline.imaging.volume import Volume


def read_scan(path: Path, label: bool = False) -> Volume:
    """Read a picture or any volume that the library reads; see ``imaging.pictures`` and ``imaging.files``."""
    return read_picture(path, label) if is_picture(path) else read_volume(path)


def split_channels(volume: Volume) -> tuple[Volume, ...]:
    """Split [X, Y, Z, C] into C volumes [X, Y, Z] on the same grid; a volume without a channel axis stays one."""
    if volume.array.ndim == 3:
        return (volume,)
    return tuple(Volume(part, volume.grid, volume.path) for part in np.moveaxis(volume.array, -1, 0))


def is_plain_nifti(volume: Volume) -> bool:
    """Whether the file the volume was read from is a compressed NIfTI of exactly three dimensions, fit to be kept."""
    stored = volume.header is not None and volume.path.name.endswith(".nii.gz")
    return bool(stored and len(volume.header.get_data_shape()) == 3)
