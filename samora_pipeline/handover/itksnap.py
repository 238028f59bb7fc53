"""The label description file of ITK-SNAP (Segmentation > Import label descriptions): index, colour, flags, name."""

from __future__ import annotations

from pathlib import Path

from samora_pipeline.contracts.label_table import LabelTable
from samora_pipeline.files import write_text

FILE = "itksnap_labels.txt"

# The first two lines are how readers recognise the file.
_HEAD = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# index, red, green, blue (0 to 255), opacity (0 to 1), shown in slices, shown in 3-D, name
################################################
"""


def write_itksnap_labels(path: Path, table: LabelTable) -> None:
    """Write the table atomically; ITK-SNAP's own entry for 0 comes first."""
    lines = [_line(0, (0, 0, 0), 0, "Clear Label")]
    lines += [_line(entry.value, entry.colour, 1, entry.name) for entry in table]
    write_text(path, _HEAD + "".join(lines))


def _line(value: int, colour: tuple[int, int, int], shown: int, name: str) -> str:
    red, green, blue = colour
    plain = " ".join(name.replace('"', "'").split())
    return f'{value:5d}  {red:4d} {green:4d} {blue:4d}  {shown:7d}  {shown} {shown}    "{plain}"\n'
