"""Scans and label maps as converters read them: files of one case together, channels apart, values by a table.

Shape legend: X, Y, Z raw axes in file order; C channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dataset_conversion.survey import LoadedCase, shortened
from samora_pipeline.contracts.json_io import parse, read_object
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.byte_checks import GZIP_MAGIC
from samora_pipeline.imaging.dicom import is_dicom, read_series
from samora_pipeline.imaging.files import read_grid, read_volume
from samora_pipeline.imaging.inputs import ending_of
from samora_pipeline.imaging.pictures import is_picture, read_picture
from samora_pipeline.imaging.volume import Volume, label_array

MAP_FORM = '{"liver": [1], "tumour": [2, 3], "background": [0, 255]}'

ABDOMEN = ("spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta")
"""The first eight labels of BTCV and of AMOS22, which number them alike."""


@dataclass(frozen=True)
class LabelMap:
    """Which values in the files make which label; labels are numbered 1, 2, ... in the order of the map.

    The JSON form is ``{"liver": [1], "tumour": [2, 3], "background": [0, 255]}``: every value that occurs in a file
    stands once. ``background`` may be left out when it is only 0.
    """

    values: Mapping[str, tuple[int, ...]]

    @classmethod
    def numbered(cls, *names: str) -> "LabelMap":
        """The map of a source whose labels are 1, 2, ... already, in the order of ``names``."""
        return cls({name: (number,) for number, name in enumerate(names, start=1)})

    @property
    def labels(self) -> dict[str, int | tuple[int, ...]]:
        """Label names and the values they get."""
        names = [name for name in self.values if name != "background"]
        return {"background": 0, **{name: number for number, name in enumerate(names, start=1)}}

    def apply(self, volume: Volume) -> Volume:
        """Replace the values of the file by those of the dataset.

        Raises:
            DataError: ``E-LABEL-09`` for values that are not in the map.
        """
        array = label_array(volume)
        listed = {0} | {value for values in self.values.values() for value in values}
        if unknown := sorted(set(np.unique(array).tolist()) - listed):
            found, fix = f"{shortened(unknown, 20)} in {volume.path.name}", f"add them to the map, such as {MAP_FORM}"
            raise DataError("E-LABEL-09", found=found, expected=", ".join(map(str, sorted(listed))), fix=fix)
        table = np.zeros(256, dtype=np.uint8)
        numbers = self.labels
        for name, values in self.values.items():
            table[list(values)] = numbers[name]
        return replace(volume, array=table[array])


def read_label_map(path: Path) -> LabelMap:
    """Read a label map from JSON; see ``LabelMap`` for its form.

    Raises:
        DataError: ``E-JSON-..`` not of this form, ``E-LABEL-10`` a value twice, out of 0..255, or no label at all.
    """
    values: dict[str, tuple[int, ...]] = parse(dict[str, tuple[int, ...]], read_object(path), str(path))
    flat = [value for group in values.values() for value in group]
    fit = all(0 <= value <= 255 for value in flat) and len(set(flat)) == len(flat)
    zero_elsewhere = any(0 in group for name, group in values.items() if name != "background")
    if not fit or zero_elsewhere or not set(values) - {"background"} or not all(values.values()):
        raise DataError("E-LABEL-10", path=path, found=str({name: list(group) for name, group in values.items()}))
    return LabelMap(values)


Spacing = tuple[float, float, float]

# Fewer different values than this are labels, not grey values.
_FEWEST_VALUES = 9
_SAMPLED = 4


def read_scan(path: Path, label: bool = False) -> Volume:
    """Read a picture or any volume that the library reads; see ``imaging.pictures`` and ``imaging.files``."""
    return read_picture(path, label) if is_picture(path) else read_volume(path)


def read_images(paths: Sequence[Path]) -> list[Volume]:
    """Read the images of a case: a file each, or the files of one DICOM series."""
    if ending_of(paths[0]) or not is_dicom(paths[0]):
        return [read_scan(path) for path in paths]
    return [read_series(paths)]


def split_channels(volume: Volume) -> tuple[Volume, ...]:
    """Split [X, Y, Z, C] into C volumes [X, Y, Z] on the same grid; a volume without a channel axis stays one."""
    if volume.array.ndim == 3:
        return (volume,)
    parts = np.moveaxis(volume.array, -1, 0)
    return tuple(Volume(part, volume.grid, volume.path, warnings=volume.warnings) for part in parts)


def is_plain_nifti(volume: Volume) -> bool:
    """Whether the file the volume was read from is a compressed NIfTI of exactly three dimensions, fit to be kept."""
    if volume.header is None or not volume.path.name.endswith(".nii.gz") or len(volume.header.get_data_shape()) != 3:
        return False
    with volume.path.open("rb") as stream:
        return stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def load_files(images: Sequence[Path], label: Path | None, label_map: LabelMap | None = None) -> LoadedCase:
    """Read the images of a case and its label map; files that hold exactly one of its volumes are kept.

    Raises:
        DataError: a file that is missing or damaged, or ``E-LABEL-09`` for values that ``label_map`` does not know.
    """
    scans = read_images(images)
    kept = {scan.path for scan in scans if is_plain_nifti(scan)}
    labels = None
    if label is not None:
        stored = read_scan(label, label=True)
        labels = label_map.apply(stored) if label_map else stored
        if is_plain_nifti(stored) and (labels is stored or np.array_equal(stored.array, labels.array)):
            kept.add(stored.path)
    return LoadedCase(tuple(part for scan in scans for part in split_channels(scan)), labels, frozenset(kept))


def refuse_label_maps(loaded: LoadedCase, fix: str) -> None:
    """Refuse scans that are label maps, by the number of their values; ``fix`` says how to leave such files out.

    Raises:
        DataError: ``E-IMG-06`` with the values.
    """
    for volume in loaded.channels:
        sample = volume.array[::_SAMPLED, ::_SAMPLED, ::_SAMPLED]
        if len(np.unique(sample)) < _FEWEST_VALUES and len(values := np.unique(volume.array)) < _FEWEST_VALUES:
            shown = ", ".join(f"{value:g}" for value in values)
            raise DataError("E-IMG-06", volume=volume, found=f"only the values {shown} in {volume.path}", fix=fix)


def doubtful_spacings(
    scans: Mapping[str, Path], plausible: Callable[[Spacing], bool], usual: str
) -> tuple[bool, tuple[str, ...]]:
    """Whether all volumes state a ``plausible`` spacing (mm), and a note about those that state another one.

    ``usual`` is the part of the note that says what would be expected. A damaged file is left for the conversion, which
    skips it.
    """
    doubtful = {}
    for name, path in scans.items():
        try:
            spacing = read_grid(path).spacing
        except DataError:
            continue
        if spacing is not None and not plausible(spacing):
            doubtful[name] = spacing
    if not doubtful:
        return True, ()
    stated = sorted({" x ".join(f"{value:.4g}" for value in spacing) for spacing in doubtful.values()})
    note = (
        f"{len(doubtful)} of {len(scans)} scans state voxels of {shortened(stated, 3)} mm, {usual}: their spacing is "
        f"taken as unknown and distances come in pixels ({shortened(list(doubtful))})"
    )
    return False, (note,)
