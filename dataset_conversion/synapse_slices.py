"""Synapse as TransUNet's preprocessing distributes it: slices for training, volumes for testing, put together again.

Intensities there are HU clipped to [-125, 275] and scaled to [0, 1]; the scaling is undone, so that the scans are CT
like all others. Spacing and orientation are lost; rows and columns are taken as they are drawn on a screen.

Shape legend: D slices; H, W rows and columns; X, Y, Z = W, H, D.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dataset_conversion.array_files import read_arrays
from dataset_conversion.scans import LabelMap
from dataset_conversion.survey import LoadedCase, Part, list_files
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.volume import Volume, label_array, make_grid

WINDOW = (-125.0, 275.0)
"""HU that became 0 and 1 (TransUNet, whose window SAMed, H-SAM and SAMora share)."""

_SLICE = re.compile(r"(case\d{4})_slice(\d{3,4})\.npz")
_VOLUME = re.compile(r"(case\d{4})\.npy\.h5")
# How far cubic down-sampling may carry values past [0, 1]; anything beyond is another kind of file.
_OVERSHOOT = 0.5
# Whole HU come back from 32-bit floats to within 1e-4; slices that were resized have fractions.
_WHOLE = 1e-3
# Columns run to the patient's left, rows to the back, slices upwards.
_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class StoredCase:
    """One case: ``files`` are its slices in order, or its one volume; ``numbers`` are the slices' own numbers.

    ``numbers`` is empty for a volume, which is always whole.
    """

    name: str
    part: Part
    files: tuple[Path, ...]
    numbers: tuple[int, ...] = ()

    @property
    def gaps(self) -> int:
        """Slices that are missing between 0 and the last one."""
        return self.numbers[-1] + 1 - len(self.numbers) if self.numbers else 0

    def positions(self, published: tuple[int, ...]) -> tuple[int, ...]:
        """Where published slice numbers lie among the slices that are there."""
        place = {number: position for position, number in enumerate(self.numbers)}
        return tuple(place[number] for number in published if number in place)

    def labels(self) -> npt.NDArray[np.uint8]:
        """The label map [D, H, W] with the values of the files.

        Raises:
            DataError: a damaged file, slices of different sizes, or ``E-LABEL-02`` for what is no label map.
        """
        return label_array(self._volume([read_arrays(path, "label")[0] for path in self.files]))

    def load(self, label_map: LabelMap) -> LoadedCase:
        """The case with HU and with the labels of ``label_map``.

        Raises:
            DataError: a damaged file, slices of different sizes, ``E-SCALE-01`` intensities of another scale, or
                ``E-LABEL-09`` for values that ``label_map`` does not know.
        """
        label = label_map.apply(_placed(self.labels(), self.files[0]))
        image = self._volume([read_arrays(path, "image")[0] for path in self.files])
        return LoadedCase((_placed(restore_hounsfield(image.array, image.path), self.files[0]),), label)

    def _volume(self, arrays: list[npt.NDArray[Any]]) -> Volume:
        shapes = {array.shape for array in arrays}
        axes = 2 if self.numbers else 3
        if len(shapes) > 1 or len(arrays[0].shape) != axes:
            what = f'the files of "{self.name}" do not make one volume'
            found = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes)[:5])
            expected = "slices H x W of one size" if self.numbers else "a volume D x H x W"
            raise DataError("E-GEO-01", what, found=found, expected=expected, fix="get the case again from its source")
        array = np.stack(arrays) if self.numbers else arrays[0]
        return Volume(array, make_grid(array.shape, np.eye(4), spacing_known=False), self.files[0])


def find_stored_slices(source: Path) -> tuple[tuple[StoredCase, ...], tuple[Path, ...]]:
    """The cases of ``train_npz*`` and ``test_vol_h5*`` in ``source`` or in the folders in it, and these folders.

    Raises:
        DataError: ``E-SRC-11`` when there are several of one kind.
    """
    train, test = _only(source, "train_npz*"), _only(source, "test_vol_h5*")
    cases = (*(_slices_in(train) if train else ()), *(_volumes_in(test) if test else ()))
    return cases, tuple(folder for folder in (train, test) if folder)


def restore_hounsfield(scaled: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """Turn [0, 1] back to HU: int16 where all values are whole (no loss then), else float32.

    Raises:
        DataError: ``E-SCALE-01`` when the values are not of that scale, ``E-IMG-05`` when some are not finite.
    """
    low, high = float(scaled.min()), float(scaled.max())
    if not np.isfinite((low, high)).all():
        raise DataError("E-IMG-05", path=path, found=str(path), expected="", fix="")
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT or high - low > 1 + 2 * _OVERSHOOT:
        raise DataError("E-SCALE-01", path=path, window=WINDOW, found=f"values from {low:g} to {high:g} in {path}")
    hu = scaled.astype(np.float32)
    hu *= np.float32(WINDOW[1] - WINDOW[0])
    hu += np.float32(WINDOW[0])
    # Part by part, so that no third volume is made.
    whole = all(float(np.abs(part - np.rint(part)).max()) < _WHOLE for part in hu)
    return np.rint(hu, out=hu).astype(np.int16) if whole else hu


def count_labels(case: StoredCase) -> Mapping[int, int]:
    """Voxels of each label value of a case, as its files have them."""
    values, counts = np.unique(case.labels(), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _placed(stack: npt.NDArray[Any], path: Path) -> Volume:
    array = np.ascontiguousarray(stack.transpose(2, 1, 0))
    return Volume(array, make_grid(array.shape, _AFFINE, spacing_known=False), path)


def _only(source: Path, pattern: str) -> Path | None:
    found = [path for path in sorted([*source.glob(pattern), *source.glob(f"*/{pattern}")]) if path.is_dir()]
    if len(found) > 1:
        places = ", ".join(str(path.relative_to(source)) for path in found)
        raise DataError("E-SRC-11", source=source, pattern=pattern, found=places)
    return found[0] if found else None


def _slices_in(folder: Path) -> list[StoredCase]:
    by_case: dict[str, list[tuple[int, Path]]] = {}
    for path in list_files(folder, (".npz",)):
        if match := _SLICE.fullmatch(path.name):
            by_case.setdefault(match[1], []).append((int(match[2]), path))
    return [
        StoredCase(name, "Tr", tuple(path for _, path in sorted(found)), tuple(number for number, _ in sorted(found)))
        for name, found in sorted(by_case.items())
    ]


def _volumes_in(folder: Path) -> list[StoredCase]:
    matches = ((_VOLUME.fullmatch(path.name), path) for path in list_files(folder, (".h5",)))
    return [StoredCase(match[1], "Ts", (path,)) for match, path in matches if match]
