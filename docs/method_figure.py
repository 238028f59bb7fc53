"""Writes docs/method.svg, the picture of the method: ``python docs/method_figure.py``. A test compares the two."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIGURE = ROOT / "docs" / "method.svg"
sys.path.insert(0, str(ROOT))

from samora_pipeline.files import write_text  # noqa: E402

# Okabe and Ito's colours, as in the reports.
_FROZEN, _LEVELS, _TRAINED = "#dfe3e8", ("#56b4e9", "#e69f00", "#009e73"), "#f0e442"
_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 360" font-family="sans-serif" font-size="13.5">
<title>SAMora: three experts are pre-trained without labels, then fused and fine-tuned with few labels</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0,0 L8,4 L0,8 z" fill="#333"/></marker></defs>
<rect width="960" height="360" fill="#fff"/>
"""


def figure() -> str:
    """The picture as SVG: stage 1 on the left, stage 2 on the right."""
    parts = [_text(215, 28, "Stage 1: unlabelled scans", bold=True)]
    parts += [_text(700, 28, "Stage 2: few labelled scans", bold=True)]
    levels = (("image", "SimCLRv2 features"), ("patch", "MAE tokens"), ("pixel", "denoising"))
    for (level, task), colour, y in zip(levels, _LEVELS, (60, 140, 220), strict=True):
        parts += [_box(20, y, 150, 56, "#fff", f"{level} level", task), _arrow(170, y + 28, 208, y + 28)]
        parts += [_box(210, y, 110, 56, _FROZEN, "SAM encoder", "frozen"), _box(320, y, 90, 56, colour, "LoRA", level)]
        parts.append(_arrow(410, y + 28, 518, y + 28))
    parts += [_box(520, 60, 150, 216, _FROZEN, "SAM encoder", "frozen, with")]
    parts += [_text(595, 205, "three frozen experts")]
    parts += [_arrow(670, 168, 708, 168), _box(710, 130, 100, 76, _TRAINED, "HL-Attn", "in each block")]
    parts += [_arrow(810, 168, 838, 168), _box(840, 130, 100, 76, _TRAINED, "decoder", "SAM's")]
    parts += [_arrow(890, 206, 890, 262), _text(890, 284, "label map")]
    parts += [_box(20, 316, 22, 18, _FROZEN, "", ""), _text(50, 330, "frozen", start=True)]
    parts += [_box(120, 316, 22, 18, _LEVELS[0], "", ""), _box(144, 316, 22, 18, _LEVELS[1], "", "")]
    parts += [
        _box(168, 316, 22, 18, _LEVELS[2], "", ""),
        _text(198, 330, "trained in stage 1, then frozen", start=True),
    ]
    parts += [_box(450, 316, 22, 18, _TRAINED, "", ""), _text(480, 330, "trained in stage 2", start=True)]
    return _HEAD + "\n".join(parts) + "\n</svg>\n"


def _box(x: int, y: int, width: int, height: int, fill: str, title: str, below: str) -> str:
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="{fill}" stroke="#333"/>'
    middle, centre = x + width // 2, y + height // 2
    words = [_text(middle, centre - 3, title, bold=True), _text(middle, centre + 16, below)] if title else []
    return "\n".join([shape, *words])


def _arrow(x: int, y: int, to_x: int, to_y: int) -> str:
    return f'<path d="M{x},{y} L{to_x},{to_y}" stroke="#333" stroke-width="1.5" fill="none" marker-end="url(#tip)"/>'


def _text(x: int, y: int, words: str, *, bold: bool = False, start: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{"start" if start else "middle"}"{weight} fill="#111">{words}</text>'


if __name__ == "__main__":
    write_text(FIGURE, figure())
