"""Overlays are judged by eye; what can be counted in them is counted here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from samora_pipeline.contracts.colours import ORANGE, PURPLE, SKY_BLUE, VERMILLION, organ_style
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.reporting.overlays import draw_overlays
from samora_pipeline.reporting.pictures import CaseStack, ShownCase

# Organs that no error has the colour of: yellow and green come third and fourth.
SCHEME = LabelScheme({"a": (1,), "b": (2,), "yellow": (3,), "green": (4,)}, ignore=9)


def picture(reference: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8], height: float = 1.0) -> ShownCase:
    image = np.full((1, 1, *reference.shape), 0.5, dtype=np.float32)
    stack = CaseStack("c", image, reference[None], (prediction[None],), (3.0, height, 1.0))
    return ShownCase("worst", "Worst: c, mean Dice 0.500", stack, {"yellow": [0.5]})


def drawn(
    tmp_path: Path, *cases: ShownCase, scheme: LabelScheme = SCHEME, warnings: tuple[str, ...] = ()
) -> npt.NDArray[np.float32]:
    path = tmp_path / "overlays.png"
    draw_overlays(path, cases, scheme, "axial", warnings)
    pixels: npt.NDArray[np.float32] = imread(path)[..., :3]
    return pixels


def count(pixels: npt.NDArray[np.float32], colour: str) -> int:
    return int((np.abs(pixels - to_rgb(colour)) < 0.02).all(axis=-1).sum())


def square(value: int, start: int = 20, size: int = 60) -> npt.NDArray[np.uint8]:
    labels = np.zeros((100, 100), dtype=np.uint8)
    labels[start : start + size, start : start + size] = value
    return labels


def test_flags_are_burned_in(tmp_path: Path) -> None:
    plain = drawn(tmp_path, picture(square(3), square(3)))
    flagged = drawn(tmp_path, picture(square(3), square(3)), warnings=("PHANTOM", "TRANSDUCTIVE"))
    assert count(plain[:50], VERMILLION) == 0
    assert count(flagged[:18], VERMILLION) > 3000
    assert np.array_equal(plain, flagged[-len(plain) :])


def test_each_kind_of_error_has_its_colour(tmp_path: Path) -> None:
    cases = {SKY_BLUE: (square(3), square(0)), ORANGE: (square(0), square(3)), PURPLE: (square(3), square(4))}
    pixels = {colour: drawn(tmp_path, picture(*labels)) for colour, labels in cases.items()}
    for kind in cases:
        # The legend shows all three colours in small.
        counts = {colour: count(pixels[kind], colour) for colour in cases}
        assert counts[kind] > 20000
        assert all(counts[colour] < 1000 for colour in cases if colour != kind), (kind, counts)


def test_ignored_pixels_are_hatched_and_no_error(tmp_path: Path) -> None:
    ignored = drawn(tmp_path, picture(square(9), square(3)))
    known = drawn(tmp_path, picture(square(0), square(3)))
    assert count(known, ORANGE) - count(ignored, ORANGE) > 20000


def test_a_small_organ_is_enlarged(tmp_path: Path) -> None:
    small = picture(square(3, 40, 10), square(4, 40, 10))
    as_it_is = drawn(tmp_path, picture(square(3, 10, 10) + square(3, 80, 10), square(4, 10, 10) + square(4, 80, 10)))
    # Two squares in opposite corners leave nothing to enlarge; one alone fills many times their area.
    assert count(drawn(tmp_path, small), PURPLE) > 3 * count(as_it_is, PURPLE)


def test_more_pictures_more_rows(tmp_path: Path) -> None:
    one = drawn(tmp_path, picture(square(3), square(3)))
    flat = picture(square(3)[:50], square(3)[:50], height=0.5)
    three = drawn(tmp_path, *[picture(square(3), square(3))] * 2, flat)
    assert one.shape[0] < three.shape[0] < 3 * one.shape[0]
    assert one.shape[1] == three.shape[1]


def test_the_same_pictures_give_the_same_bytes(tmp_path: Path) -> None:
    regions = LabelScheme({"whole": (1, 2), "core": (2,)}, region_order=(1, 2))
    bytes_of = []
    for _ in range(2):
        drawn(tmp_path, picture(square(2), square(1)), scheme=regions)
        bytes_of.append((tmp_path / "overlays.png").read_bytes())
    assert bytes_of[0] == bytes_of[1]
    assert list(tmp_path.iterdir()) == [tmp_path / "overlays.png"]


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no case"):
        draw_overlays(tmp_path / "overlays.png", [], SCHEME, "axial")


def test_twenty_one_organs_look_different() -> None:
    assert len({organ_style(index) for index in range(21)}) == 21


def test_two_hundred_organs_are_drawn(tmp_path: Path) -> None:
    scheme = LabelScheme({f"organ_{value}": (value,) for value in range(1, 201)})
    pixels = drawn(tmp_path, picture(square(200), square(199)), scheme=scheme)
    assert count(pixels, organ_style(199).colour) > 0
