"""One case to predict, before anything of it is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class InputCase:
    """A case: its channels in order, and the ending of its label map.

    ``dicom``: ``channels`` are the files of one DICOM series, which hold one channel together.
    """

    name: str
    channels: tuple[Path, ...]
    ending: str
    dicom: bool = False
