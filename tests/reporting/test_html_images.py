from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from samora_pipeline.contracts.colours import rgb
from samora_pipeline.reporting.html_images import flag_strip, flagged

FLAGS = ("PHANTOM", "TRANSDUCTIVE", "BOOTSTRAPPED BASE (SAMoraTrainer__10pct__default)")


@pytest.mark.parametrize("width", [110, 200, 900])
def test_all_flags_are_readable_on_a_picture_of_any_width(width: int) -> None:
    strip = np.asarray(flag_strip(FLAGS, width), dtype=int)
    # Nothing is cut off: the edges are bare, and as much is written as on a strip that has room for everything.
    for edge in (strip[:, :2], strip[:, -2:], strip[:1], strip[-1:]):
        assert (edge == rgb("#D55E00")).all()
    wide = np.asarray(flag_strip(FLAGS, 2000), dtype=int)
    assert len(wide) == 18

    def ink(pixels: np.ndarray) -> float:
        return float(np.abs(pixels - rgb("#D55E00")).sum())

    assert ink(strip) == pytest.approx(ink(wide), rel=0.02)


def test_the_picture_under_its_flags_is_the_picture() -> None:
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 120, 3), dtype=np.uint8))
    marked = np.asarray(flagged(picture, FLAGS))
    assert (marked[-40:] == np.asarray(picture)).all()
    assert flagged(picture, ()) is picture
