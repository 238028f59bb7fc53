"""Doubts about the headers of a source, from the headers alone: spacings that scans of this kind cannot have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from dataset_conversion.file_names import shortened
from samora_pipeline.errors import DataError

Spacing = tuple[float, float, float]


def doubtful_spacings(scans: Mapping[str, Path], plausible: Callable[[Spacing], bool]) -> dict[str, Spacing]:
    """The spacing in mm of each NRRD or MetaImage scan for which ``plausible`` says no, by case.

    A damaged file is left for the conversion, which sets it aside.
    """
    from samora_pipeline.imaging.itk_files import read_itk_grid

    doubtful = {}
    for name, path in scans.items():
        try:
            spacing = read_itk_grid(path).spacing
        except DataError:
            continue
        if not plausible(spacing):
            doubtful[name] = spacing
    return doubtful


def spacing_note(doubtful: Mapping[str, Spacing], total: int, usual: str) -> str:
    """A sentence about them: how many of ``total``, what they state, what is ``usual``."""
    stated = sorted({" x ".join(f"{value:.4g}" for value in spacing) for spacing in doubtful.values()})
    return (
        f"{len(doubtful)} of {total} scans state voxels of {shortened(stated, 3)} mm, {usual}: their spacing is taken "
        f"as unknown and distances come in pixels ({shortened(list(doubtful))})"
    )
