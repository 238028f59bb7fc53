"""A scan and its label map, each in a file of its own: how most public datasets hold a case."""

from __future__ import annotations

from pathlib import Path

from dataset_conversion.converter import LoadedCase
from dataset_conversion.label_map import LabelMap


def load_pair(image: Path, label: Path | None, label_map: LabelMap) -> LoadedCase:
    """Read both files; a label map whose values stay what they are keeps its file.

    Raises:
        DataError: a file that is missing or damaged, or ``E-LABEL-09`` for values that ``label_map`` does not know.
    """
    import numpy as np

    from dataset_conversion.scan_files import is_plain_nifti, read_scan, split_channels

    scan = read_scan(image)
    kept = {scan.path} if is_plain_nifti(scan) else set()
    if label is None:
        return LoadedCase(split_channels(scan), None, frozenset(kept))
    stored = read_scan(label, label=True)
    mapped = label_map.apply(stored)
    if is_plain_nifti(stored) and np.array_equal(stored.array, mapped.array):
        kept.add(stored.path)
    return LoadedCase(split_channels(scan), mapped, frozenset(kept))
