"""Pictures that are saved without being drawn: drawing costs more than a short training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
_SVG = b"<svg/>"


def savefig(figure: Figure, target: Any, **options: Any) -> None:
    """In place of ``Figure.savefig``: one pixel."""
    content = _SVG if options.get("format") == "svg" else _PNG
    if hasattr(target, "write"):
        target.write(content)
    else:
        Path(target).write_bytes(content)
