"""Every default stage on devices of many sizes, ViT-B at 224 px: shapes alone, no numbers."""

from __future__ import annotations

import gc

import pytest

from tests.pretend_cuda.full_size import pretended
from tests.pretend_cuda.insides import DEFAULT, fitted_stage, peak_of

SIZES = (8, 12, 24, 48, 80)
FAST = {("finetune 1 x 32", 8)}


def _marks(name: str, gib: int) -> list[pytest.MarkDecorator]:
    return [] if (name, gib) in FAST else [pytest.mark.slow]


@pytest.mark.parametrize(
    ("name", "gib"), [pytest.param(name, gib, marks=_marks(name, gib)) for name in DEFAULT for gib in SIZES]
)
def test_every_stage_fits_every_device(name: str, gib: int) -> None:
    """Not an allocation fails, so that nothing had to be halved, and the peak is what was predicted."""
    with pretended(numbers=False, total_gib=gib) as device:
        device.count_lines = False
        found = fitted_stage(device, name)
        peak = peak_of(device, found)
    gc.collect()
    assert peak <= gib
    assert peak == pytest.approx(found.predicted, rel=0.2)
    # Nothing is cut where there is room.
    assert gib < 80 or (found.fit.micro_batch == found.fit.largest and not found.fit.recomputes) or "scratch" in name
