"""The one home of colours: those that stay apart for colour-blind readers and in grey print (Okabe and Ito, 2008)."""

from __future__ import annotations

ORANGE = "#E69F00"
SKY_BLUE = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"

# On a grey image the light colours stand out best, so the dark blue comes last.
ORGAN_COLOURS = (VERMILLION, SKY_BLUE, YELLOW, GREEN, PURPLE, ORANGE, BLUE)

Rgb = tuple[int, int, int]
GREY: Rgb = (128, 128, 128)


def label_colour(index: int) -> Rgb:
    """The colour of the label at ``index`` (from 0): the seven organ colours, then shades of them; up to 255 differ."""
    number = len(ORGAN_COLOURS)
    hexadecimal, turn = ORGAN_COLOURS[index % number], index // number
    base = tuple(int(hexadecimal[start : start + 2], 16) for start in (1, 3, 5))
    if turn == 0:
        return base[0], base[1], base[2]
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
