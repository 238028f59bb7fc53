"""What a channel's name says about its intensities. A name that says nothing is an error, never a default."""

from __future__ import annotations

import re

from samora_pipeline.contracts.plans import IntensityScheme
from samora_pipeline.errors import DataError

# nnU-Net's names (CT, zscore, noNorm, rescale_to_0_1, rgb_to_0_1) and what public datasets write; compared in lower
# case without spaces, underscores and dashes.
_CT = frozenset({"ct"})
_MAGNETIC_RESONANCE = ("mr", "mri", "lge", "lgemri", "cine", "bssfp", "mprage", "adc", "dwi", "swi", "pd", "pdw")
_WEIGHTED = ("t1", "t2", "t1w", "t2w", "t1c", "t1ce", "t1gd", "t1n", "t2f", "flair", "t2flair")
_PERCENTILES = frozenset((*_MAGNETIC_RESONANCE, *_WEIGHTED, "zscore"))
_RANGE = frozenset({"nonorm", "rescaleto01", "rescaled"})
_RGB = frozenset({"r", "g", "b", "red", "green", "blue", "rgb", "rgbto01"})


def scheme_of(name: str) -> IntensityScheme | None:
    """The scheme a channel name stands for, or None when the name is unknown. ``window`` is CT or colour."""
    plain = re.sub(r"[\s_-]", "", name.lower())
    if plain in _CT or plain in _RGB:
        return "window"
    if plain in _PERCENTILES:
        return "percentiles"
    return "range" if plain in _RANGE else None


def is_colour(name: str) -> bool:
    """Whether a channel name stands for a colour with values from 0 to 255."""
    return re.sub(r"[\s_-]", "", name.lower()) in _RGB


def require_known(names: tuple[str, ...], overridden: frozenset[int]) -> None:
    """Refuse a channel whose name says nothing and for which no rule was given.

    Raises:
        DataError: ``E-CHAN-03``.
    """
    for index, name in enumerate(names):
        if index not in overridden and scheme_of(name) is None:
            raise DataError(
                "E-CHAN-03",
                f'the channel name "{name}" does not say how its intensities are scaled',
                found=f'"{index}": "{name}" in channel_names of dataset.json',
                expected="CT, MR, MRI, T1, T2, T1w, T2w, FLAIR, LGE, ADC, zscore, noNorm, rescale_to_0_1, R, G or B",
                fix=f"correct the name, or say it: --set intensity.{index}=percentiles  (or range, or window:-125,275)",
            )
