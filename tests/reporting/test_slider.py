from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from samora_pipeline.contracts.colours import ORGAN_COLOURS, organ_style, rgb
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.reporting import slider
from samora_pipeline.reporting.html_blocks import Viewer
from samora_pipeline.reporting.html_images import palette_address
from samora_pipeline.reporting.painting import (
    ERROR_COLOURS,
    Layer,
    errors_layer,
    frame_around,
    organ_legend,
    organs_layer,
)
from samora_pipeline.reporting.pictures import CaseStack, ShownCase, evenly, slice_dice
from samora_pipeline.reporting.slider import DETAILS, make_viewer, size_of
from tests.fake_run import LABELS, REGIONS

LARGE = 10**9


def pixels(address: str) -> np.ndarray:
    """A picture's address as RGBA."""
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    return np.asarray(picture.convert("RGBA"))


def rgba(layer: Layer) -> np.ndarray:
    """A layer as RGBA, by way of its address."""
    drawn = pixels(palette_address(layer.indices, layer.colours))
    assert (drawn == np.array(layer.colours, dtype=np.uint8)[layer.indices]).all()
    return drawn


def stack(predictions: int = 1, slices: int = 6) -> CaseStack:
    reference = np.zeros((slices, 40, 30), dtype=np.uint8)
    reference[1:, 10:20, 5:15] = 1
    reference[1:, 10:20, 15:25] = 2
    wrong = np.roll(reference, 2, axis=1)
    wrong[3] = 0
    images = np.linspace(0, 1, reference.size, dtype=np.float32).reshape(slices, 1, 40, 30)
    return CaseStack("case", images, reference, (wrong,) * predictions, (3.0, 1.0, 1.0))


def shown(role: str = "worst", predictions: int = 1, slices: int = 6) -> ShownCase:
    names = ("A", "B") if predictions == 2 else ()
    return ShownCase(role, "title", stack(predictions, slices), {"liver": [0.5] * predictions}, names)


def test_the_frame_keeps_everything_marked_and_the_shape_of_the_body() -> None:
    mask = np.zeros((50, 60), dtype=bool)
    mask[20:30, 10:40] = True
    frame = frame_around(mask, aspect=2.0, side=100)
    assert (frame.top, frame.bottom, frame.left, frame.right) == (16, 34, 4, 46)
    assert max(frame.width, frame.height) == 100
    assert frame.height / frame.width == pytest.approx(2.0 * 18 / 42, rel=0.02)
    everything = frame_around(np.zeros((5, 7), dtype=bool), 1.0, 14)
    assert (everything.top, everything.bottom, everything.left, everything.right) == (0, 5, 0, 7)


def test_organs_have_their_colours_outlines_and_nothing_lies_elsewhere() -> None:
    labels = stack().reference[1]
    frame = frame_around(np.ones(labels.shape, dtype=bool), 1.0, 40)
    drawn = rgba(organs_layer(frame, labels, LABELS))
    assert drawn.shape == (40, 30, 4)
    assert not drawn[labels == 0].any(axis=-1).any()
    for value, index in ((1, 0), (2, 1)):
        colour = rgb(organ_style(index).colour)
        inside = drawn[labels == value]
        assert set(map(tuple, inside[:, :3])) == {colour}
        assert set(inside[:, 3]) == {90, 255}
        rows, columns = np.flatnonzero((labels == value).any(1)), np.flatnonzero((labels == value).any(0))
        assert (drawn[rows[0], columns, 3] == 255).all()
        assert (drawn[rows[2], columns[2:-2], 3] == 90).all()


def test_the_eighth_organ_is_told_from_the_first_by_stripes() -> None:
    scheme = LabelScheme({f"organ {value}": (value,) for value in range(1, 9)})
    labels = np.zeros((40, 40), dtype=np.uint8)
    labels[:, :18], labels[:, 22:] = 1, 8
    frame = frame_around(np.ones(labels.shape, dtype=bool), 1.0, 40)
    drawn = rgba(organs_layer(frame, labels, scheme))
    # Below the numbers, which stand where an organ is thickest for the first time.
    assert rgb(ORGAN_COLOURS[0]) == tuple(drawn[35, 5, :3]) == tuple(drawn[35, 30, :3])
    assert len(set(drawn[28:38, 2:14, 3].ravel())) == 1
    assert len(set(drawn[28:38, 25:37, 3].ravel())) == 2
    assert [entry.striped for entry in organ_legend(scheme).entries] == [False] * 7 + [True]


def test_errors_have_the_colours_of_the_legend() -> None:
    reference = np.array([[1, 1, 2, 0, 0, 0]] * 6, dtype=np.uint8)
    prediction = np.array([[0, 1, 1, 1, 0, 0]] * 6, dtype=np.uint8)
    frame = frame_around(np.ones(reference.shape, dtype=bool), 1.0, 6)
    drawn = rgba(errors_layer(frame, reference, prediction, LABELS))[3]
    wanted = {0: "missed", 2: "confused", 3: "false"}
    for column, name in wanted.items():
        assert tuple(drawn[column]) == (*rgb(ERROR_COLOURS[name][0]), 255)
    assert not drawn[4:].any()


def test_a_viewer_begins_at_the_worst_slice_and_shows_those_with_organs() -> None:
    viewer = make_viewer(shown(), LABELS, "axial", (), LARGE)
    numbers = [int(re.match(r"slice (\d+) of 6", words)[1]) for words, *_ in viewer.slices]  # type: ignore[index]
    assert numbers == [2, 3, 4, 5, 6]
    assert numbers[viewer.start] == 4
    assert viewer.slices[viewer.start][0].endswith("200 wrong pixels")
    assert viewer.panels == ("Scan", "Reference", "Prediction", "Errors")
    assert len({scan for _, scan, *_ in viewer.slices}) == 5
    assert make_viewer(shown("best"), LABELS, "axial", (), LARGE).start == 0


def test_two_runs_stand_above_their_errors() -> None:
    viewer = make_viewer(shown(predictions=2), LABELS, "axial", (), LARGE)
    assert viewer.panels == ("Scan", "Prediction A", "Prediction B", "Reference", "Errors A", "Errors B")
    case = stack(2)
    _, _, *overlays = viewer.slices[0]
    assert overlays[0] == overlays[1] != overlays[2]
    assert overlays[3] == overlays[4]
    held = np.asarray((case.reference > 0).any(axis=0) | (case.predictions[0] > 0).any(axis=0))
    frame = frame_around(held, case.aspect, DETAILS[0][0])
    layer = organs_layer(frame, case.reference[1], LABELS)
    assert overlays[2] == palette_address(layer.indices, layer.colours)


def test_detail_is_given_up_until_the_budget_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slider, "DETAILS", ((96, 60, 12), (64, 50, 6), (48, 30, 3)))

    def made(budget: int) -> Viewer:
        return make_viewer(shown(slices=30), LABELS, "axial", ("PHANTOM",), budget)

    full = made(LARGE)
    smaller = made(size_of(full) - 1)
    least = made(0)
    assert [len(viewer.slices) for viewer in (full, smaller, least)] == [12, 6, 3]
    assert size_of(smaller) < size_of(full)
    assert max(least.width, least.height) == 48
    assert "3 of 30 axial slices" in least.caption


def test_slices_are_spread_evenly_with_the_representative_one_among_them() -> None:
    assert evenly(range(10), 20, 4) == list(range(10))
    chosen = evenly(range(100), 5, 37)
    assert len(chosen) == 5
    assert 37 in chosen
    assert chosen[0] == 0
    assert chosen[-1] == 99
    assert evenly([], 5, 3) == [3]


def test_dice_of_slices_is_dice() -> None:
    case = stack()
    scores = slice_dice(case.reference, case.predictions[0], LABELS)
    for value, name in ((1, "liver"), (2, "spleen")):
        truth, guess = case.reference == value, case.predictions[0] == value
        assert scores[name] == pytest.approx(2 * (truth & guess).sum() / (truth.sum() + guess.sum()))
    nothing = np.zeros_like(case.reference)
    assert slice_dice(nothing, nothing, LABELS) == {"liver": None, "spleen": None}
    ignored = np.full_like(nothing, 3)
    assert slice_dice(ignored, np.ones_like(nothing), REGIONS) == {"whole": None, "core": None}


def test_the_flag_is_burned_into_the_scan() -> None:
    plain, marked = (make_viewer(shown(), LABELS, "axial", warnings, LARGE) for warnings in ((), ("PHANTOM",)))
    assert replace(plain, slices=()) == replace(marked, slices=())
    row = pixels(marked.slices[0][1])[4]
    assert abs(row[-20:, :3].astype(int) - rgb("#D55E00")).max() < 40
