"""LabelScheme: from label values on disk to network outputs and back, with nnU-Net's regions and ignore label."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from samora_pipeline.errors import DataError

BACKGROUND = "background"
IGNORE = "ignore"

LabelArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class LabelScheme:
    """The labels of a dataset.

    ``names`` maps each foreground name to its label values, in the order of the network's outputs: one value for an
    ordinary label, several for a region (nnU-Net: a label may be a list of values). ``ignore`` is the value that
    carries neither loss nor score. ``region_order`` is nnU-Net's ``regions_class_order``: the value written for each
    region when a prediction is turned into one label map, later ones over earlier ones.
    """

    names: dict[str, tuple[int, ...]]
    ignore: int | None = None
    region_order: tuple[int, ...] = ()

    @property
    def regions(self) -> bool:
        """Whether outputs are overlapping regions (one sigmoid each) and not exclusive classes (softmax)."""
        return any(len(values) > 1 for values in self.names.values())

    @property
    def foreground(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """(name, values) of each foreground label or region, in the order of the outputs."""
        return tuple(self.names.items())

    @property
    def num_outputs(self) -> int:
        """Output maps of the network: K + 1 exclusive classes with background first, or one per region."""
        return len(self.names) if self.regions else len(self.names) + 1

    @property
    def values(self) -> frozenset[int]:
        """All values that may stand in a label file, background and ignore included."""
        declared = {value for values in self.names.values() for value in values}
        return frozenset(declared | {0} | ({self.ignore} if self.ignore is not None else set()))

    def encode(self, labels: LabelArray) -> npt.NDArray[np.int64]:
        """Turn label values into class indices 0..K (0 background, -1 ignore), any shape.

        With regions the values themselves are returned (ignore as -1): ``region_masks`` says which value belongs to
        which region.
        """
        table = np.zeros(max(self.values) + 1, dtype=np.int64)
        for index, (_, values) in enumerate(self.foreground, start=1):
            for value in values:
                table[value] = value if self.regions else index
        if self.ignore is not None:
            table[self.ignore] = -1
        return table[labels]

    def region_masks(self) -> npt.NDArray[np.bool_]:
        """Return the table (R, max value + 1): True where a value belongs to a region. Only with regions."""
        masks = np.zeros((len(self.names), max(self.values) + 1), dtype=np.bool_)
        for index, (_, values) in enumerate(self.foreground):
            masks[index, list(values)] = True
        return masks

    def decode(self, scores: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
        """Turn network scores (outputs first, any shape behind) into label values.

        Exclusive classes: the largest score wins. Regions: score above 0 (logits), painted in ``region_order``.
        """
        if not self.regions:
            table = np.array([0, *(values[0] for _, values in self.foreground)], dtype=np.uint8)
            winners: npt.NDArray[np.uint8] = table[scores.argmax(axis=0)]
            return winners
        labels = np.zeros(scores.shape[1:], dtype=np.uint8)
        for score, value in zip(scores, self.region_order, strict=True):
            labels[score > 0] = value
        return labels


def label_scheme(labels: dict[str, int | tuple[int, ...]], region_order: tuple[int, ...] | None) -> LabelScheme:
    """Build the scheme from dataset.json's ``labels`` and ``regions_class_order``.

    Raises:
        DataError: ``E-LABEL-01`` when background is not 0, values repeat or are out of 0..255, the ignore value is
            not the highest, or regions come without their order.
    """
    as_values = {name: (value,) if isinstance(value, int) else tuple(value) for name, value in labels.items()}
    ignore = as_values.pop(IGNORE, None)
    if as_values.pop(BACKGROUND, None) != (0,):
        raise _wrong("background must be declared as 0", str(labels), '"background": 0')
    if not as_values or any(not values for values in as_values.values()):
        raise _wrong("there must be a foreground label, each with a value", str(labels), "a label besides background")
    flat = [value for values in as_values.values() for value in values]
    if min(flat) < 1 or max([*flat, *(ignore or ())]) > 255:
        raise _wrong("a label value is out of range", str(labels), "foreground values from 1 to 255")
    scheme = LabelScheme(as_values, ignore[0] if ignore else None, tuple(region_order or ()))
    if ignore is not None and (len(ignore) != 1 or ignore[0] <= max(flat)):
        raise _wrong("the ignore label must be the highest value", str(labels), f"a value above {max(flat)}")
    if not scheme.regions and len(set(flat)) != len(flat):
        raise _wrong("a label value is declared twice", str(labels), "each value once (regions are lists)")
    if scheme.regions and len(scheme.region_order) != len(as_values):
        raise _wrong("each region needs a value in regions_class_order", str(region_order), f"{len(as_values)} values")
    return scheme


def _wrong(what: str, found: str, expected: str) -> DataError:
    return DataError("E-LABEL-01", what=what, found=found, expected=expected, fix="")
