"""How organs are drawn: the colours of ``contracts.colours``, and lines where colours repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from samora_pipeline.contracts.colours import (
    BLUE,
    GREEN,
    ORANGE,
    ORGAN_COLOURS,
    PURPLE,
    SKY_BLUE,
    VERMILLION,
    YELLOW,
)

__all__ = [
    "BLUE",
    "GREEN",
    "LINES",
    "ORANGE",
    "ORGAN_COLOURS",
    "PURPLE",
    "SKY_BLUE",
    "VERMILLION",
    "YELLOW",
    "Line",
    "Style",
    "organ_style",
]

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


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour (``#E69F00``), 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
