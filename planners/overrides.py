"""The values of a plan that ``--set key=value`` can fix, and how their text is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from samora_pipeline.contracts.plans import IntensityRule
from samora_pipeline.errors import UsageError
from samora_pipeline.registry import nearest

_WINDOW = re.compile(r"^window:(?P<low>-?\d+(?:\.\d+)?),(?P<high>-?\d+(?:\.\d+)?)$")

SET_MARK = "set by --set"
"""How the reason of a value begins that was not decided from the data."""

KEYS = (
    "slice_axis",
    "in_plane",
    "in_plane_spacing",
    "slice_size",
    "input_size",
    "batch_size",
    "mirror",
)


def read_pairs(texts: list[str]) -> dict[str, str]:
    """Split ``key=value`` texts of the command line.

    Raises:
        UsageError: ``E-SET-02`` without a key, a value, or with a key that stands twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value) or key in pairs:
            raise unusable(key or text, value, "key=value, each key once")
        pairs[key] = value
    return pairs


def recorded_pairs(reasons: Iterable[str]) -> dict[str, str]:
    """The ``--set`` values that a plan was made with, from the reasons of its values."""
    parts = [part.strip() for reason in reasons for part in reason.split(";")]
    return read_pairs([part.removeprefix(SET_MARK).strip() for part in parts if part.startswith(SET_MARK)])


def check_keys(overrides: Mapping[str, str], channels: int) -> None:
    """Refuse ``--set`` keys that no plan has.

    Raises:
        UsageError: ``E-SET-01`` with the nearest key.
    """
    known = [*KEYS, *(f"intensity.{index}" for index in range(channels))]
    for key in overrides:
        if key not in known:
            raise UsageError(
                "E-SET-01",
                f'a plan has no value "{key}"',
                found=f"--set {key}={overrides[key]}",
                expected=f"{nearest(key, known)}{', '.join(known)}",
                fix="samora_plan_and_preprocess --explain  shows all values",
            )


def ruled_channels(overrides: Mapping[str, str]) -> frozenset[int]:
    """The channels whose intensity rule is given by ``--set intensity.N=...``."""
    return frozenset(int(key.removeprefix("intensity.")) for key in overrides if key.startswith("intensity."))


def one_of(options: object) -> Callable[[str, str], Any]:
    """A reader for one of the words of a ``Literal`` type."""

    def read(key: str, text: str) -> str:
        if text not in get_args(options):
            raise unusable(key, text, " or ".join(get_args(options)))
        return text

    return read


def read_count(key: str, text: str) -> int:
    """Read a whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise unusable(key, text, "a whole number from 1")
    return int(text)


def read_size(key: str, text: str) -> int:
    """Read a size in pixels: SAM's patches are 16 wide and come whole."""
    if not text.isdigit() or int(text) < 16 or int(text) % 16:
        raise unusable(key, text, "a multiple of 16")
    return int(text)


def read_spacing(key: str, text: str) -> float | None:
    """Read a pixel size in mm."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1e4:
        raise unusable(key, text, "a pixel size in mm")
    return value


def read_flag(key: str, text: str) -> bool:
    """Read ``true`` or ``false``."""
    if text.lower() not in ("true", "false"):
        raise unusable(key, text, "true or false")
    return text.lower() == "true"


def read_rule(key: str, text: str) -> IntensityRule:
    """Read an intensity rule: ``percentiles``, ``range`` or ``window:LOW,HIGH``."""
    if text == "percentiles":
        return IntensityRule("percentiles")
    if text == "range":
        return IntensityRule("range")
    match = _WINDOW.match(text)
    if match is None or float(match["low"]) >= float(match["high"]):
        raise unusable(key, text, "percentiles, range or window:LOW,HIGH with LOW below HIGH")
    return IntensityRule("window", float(match["low"]), float(match["high"]))


def unusable(key: str, text: str, expected: str) -> UsageError:
    """The error for a value that does not suit its key (``E-SET-02``)."""
    return UsageError(
        "E-SET-02",
        f"{text!r} is no value for {key}",
        found=f"--set {key}={text}",
        expected=expected,
        fix="samora_plan_and_preprocess --explain  shows all values",
    )
