"""Which values of a source make which label of a dataset: the table that a converter applies and the page prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from samora_pipeline.contracts.json_io import parse, read_object
from samora_pipeline.errors import DataError
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
    def numbered(cls, *names: str) -> LabelMap:
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
        unknown = sorted(set(np.unique(array).tolist()) - listed)
        if unknown:
            raise DataError(
                "E-LABEL-09",
                what=f"{volume.path.name} has label values that are not in the label map",
                found=", ".join(map(str, unknown[:20])),
                expected=", ".join(map(str, sorted(listed))),
                fix=f"add them to the map, for example {MAP_FORM}",
            )
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
