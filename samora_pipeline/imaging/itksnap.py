"""Label description files of ITK-SNAP: which value of a label map is called what, written and read."""

import re
from pathlib import Path

from samora_pipeline.contracts.label_table import LabelTable
from samora_pipeline.errors import DataError
from samora_pipeline.files import write_text

# The first two lines are how readers recognise the file.
_HEAD = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# index, red, green, blue (0 to 255), opacity (0 to 1), shown in slices, shown in 3-D, name
################################################
"""
_ROW = re.compile(r'\s*(\d+)(?:\s+[\d.]+){6}\s+"(.*)"\s*')


def write_itksnap(path: Path, table: LabelTable) -> None:
    """Write the file atomically (ITK-SNAP: Segmentation > Import label descriptions).

    ITK-SNAP's own entry for 0 comes first.
    """
    rows = [(0, (0, 0, 0), 0, "Clear Label"), *((entry.value, entry.colour, 1, entry.name) for entry in table)]
    lines = []
    for value, (red, green, blue), shown, name in rows:
        lines.append(f'{value:5d}  {red:4d} {green:4d} {blue:4d}  {shown:7d}  {shown} {shown}    "{_plain(name)}"\n')
    write_text(path, _HEAD + "".join(lines))


def read_itksnap(path: Path) -> dict[int, str]:
    """The name of each value; 0 is left out, because ITK-SNAP keeps it for what has no label.

    Raises:
        DataError: ``E-SEG-09`` a line that is no description of a label.
    """
    names = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _ROW.fullmatch(line)
        if match is None:
            raise DataError("E-SEG-09", path=path, found=f"line {number}: {line.strip()[:80]}")
        names[int(match[1])] = match[2]
    return {value: name for value, name in names.items() if value}


def _plain(name: str) -> str:
    return " ".join(name.replace('"', "'").split())
