"""The one home of colours: those that stay apart for colour-blind readers and in grey print (Okabe and Ito, 2008)."""

from typing import Literal, NamedTuple

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

Rgb = tuple[int, int, int]
GREY: Rgb = (128, 128, 128)


class Style(NamedTuple):
    """How one organ is drawn."""

    colour: str
    line: Line


def organ_style(index: int) -> Style:
    """The style of the organ at ``index`` (from 0): seven colours with solid lines, then dashed, then dotted."""
    number = len(ORGAN_COLOURS)
    return Style(ORGAN_COLOURS[index % number], LINES[index // number % len(LINES)])


def rgb(colour: str) -> Rgb:
    """Red, green and blue of a colour (``#E69F00``), 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def label_colour(index: int) -> Rgb:
    """The colour of the label at ``index`` (from 0): the seven organ colours, then shades of them; up to 255 differ."""
    number = len(ORGAN_COLOURS)
    hexadecimal, turn = ORGAN_COLOURS[index % number], index // number
    base = rgb(hexadecimal)
    if turn == 0:
        return base
    # Odd turns darken, even ones lighten; the amounts fill the interval evenly however many turns there are.
    target, amount = (0 if turn % 2 else 255), 0.85 * _halving((turn + 1) // 2)
    red, green, blue = (round(value + (target - value) * amount) for value in base)
    return red, green, blue


def _halving(number: int) -> float:
    """1/2, 1/4, 3/4, 1/8, 5/8, ...: the bits of ``number`` mirrored behind the point."""
    value, share = 0.0, 0.5
    while number:
        value += share * (number % 2)
        number, share = number // 2, share / 2
    return value
