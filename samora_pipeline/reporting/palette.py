"""Colours and lines that stay apart for colour-blind readers and in grey print (Okabe and Ito, 2008)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ORANGE = "#E69F00"
SKY_BLUE = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"

# On a grey image the light colours stand out best, so the dark blue comes last.
ORGAN_COLOURS = (VERMILLION, SKY_BLUE, YELLOW, GREEN, PURPLE, ORANGE, BLUE)
Line = Literal["solid", "dashed", "dotted"]
LINES: tuple[Line, ...] = ("solid", "dashed", "dotted")


@dataclass(frozen=True)
class Style:
    """How one organ is drawn."""

    colour: str
    line: Line


def organ_style(index: int) -> Style:
    """The style of the organ at ``index`` (from 0): seven colours with solid lines, then dashed, then dotted."""
    number = len(ORGAN_COLOURS)
    return Style(ORGAN_COLOURS[index % number], LINES[index // number % len(LINES)])
