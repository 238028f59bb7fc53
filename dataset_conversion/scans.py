"""Scans and label maps as converters read them: files of one case together, channels apart, headers in doubt.

Shape legend: X, Y, Z raw axes in file order; C channels.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dataset_conversion.file_names import shortened
from dataset_conversion.label_map import LabelMap
from dataset_conversion.survey import LoadedCase
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.itk_files import read_itk_grid
from samora_pipeline.imaging.pictures import is_picture, read_picture
from samora_pipeline.imaging.volume import Volume

Spacing = tuple[float, float, float]


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


def load_files(images: Sequence[Path], label: Path | None, label_map: LabelMap | None = None) -> LoadedCase:
    """Read the images of a case and its label map; files that hold exactly one of its volumes are kept.

    Raises:
        DataError: a file that is missing or damaged, or ``E-LABEL-09`` for values that ``label_map`` does not know.
    """
    scans = [read_scan(path) for path in images]
    kept = {scan.path for scan in scans if is_plain_nifti(scan)}
    labels = None
    if label is not None:
        stored = read_scan(label, label=True)
        labels = label_map.apply(stored) if label_map else stored
        if is_plain_nifti(stored) and (labels is stored or np.array_equal(stored.array, labels.array)):
            kept.add(stored.path)
    return LoadedCase(tuple(part for scan in scans for part in split_channels(scan)), labels, frozenset(kept))


def doubtful_spacings(
    scans: Mapping[str, Path], plausible: Callable[[Spacing], bool], usual: str
) -> tuple[bool, tuple[str, ...]]:
    """Whether all NRRD or MetaImage scans state a ``plausible`` spacing (mm), and a note about those that do not.

    ``usual`` is the part of the note that says what would be expected. A damaged file is left for the conversion, which
    skips it.
    """
    doubtful = {}
    for name, path in scans.items():
        try:
            spacing = read_itk_grid(path).spacing
        except DataError:
            continue
        if not plausible(spacing):
            doubtful[name] = spacing
    if not doubtful:
        return True, ()
    stated = sorted({" x ".join(f"{value:.4g}" for value in spacing) for spacing in doubtful.values()})
    note = (
        f"{len(doubtful)} of {len(scans)} scans state voxels of {shortened(stated, 3)} mm, {usual}: their spacing is "
        f"taken as unknown and distances come in pixels ({shortened(list(doubtful))})"
    )
    return False, (note,)
