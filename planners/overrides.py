"""The values of a plan that ``--set key=value`` can fix, and how their text is read."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from samora_pipeline.contracts.options import read_value, split_assignment
from samora_pipeline.contracts.plans import InPlaneRule, SliceAxis
from samora_pipeline.errors import UsageError
from samora_pipeline.imaging.intensity import INTENSITY_SCHEMES, read_rule
from samora_pipeline.registry import suggestion

# The type of each value, and the condition that it has to meet.
_KEYS: dict[str, tuple[Any, str, Callable[[Any], bool]]] = {
    "slice_axis": (SliceAxis, "", lambda _: True),
    "in_plane": (InPlaneRule, "", lambda _: True),
    "in_plane_spacing": (float, "a pixel size in mm", lambda value: 0.0 < value < 1e4),
    # SAM's patches are 16 pixels wide and come whole.
    "slice_size": (int, "a multiple of 16", lambda value: value > 0 and value % 16 == 0),
    "input_size": (int, "a multiple of 16", lambda value: value > 0 and value % 16 == 0),
    "mirror": (bool, "", lambda _: True),
}


def read_pairs(texts: Sequence[str]) -> dict[str, str]:
    """Split ``key=value`` texts of the command line.

    Raises:
        UsageError: ``E-SET-02`` without a key, a value, or with a key that stands twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        key, value = split_assignment(text, "input_size=512")
        if not value or key in pairs:
            raise unusable(key, value, "key=value, each key once")
        pairs[key] = value
    return pairs


def check_keys(overrides: Mapping[str, str], channels: int) -> None:
    """Refuse ``--set`` keys that no plan has.

    Raises:
        UsageError: ``E-SET-01`` with the nearest key.
    """
    known = [*_KEYS, *(f"intensity.{index}" for index in range(channels))]
    for key in overrides:
        if key not in known:
            raise UsageError(
                "E-SET-01",
                what=f'a plan has no value "{key}"',
                found=key,
                fix="samora_plan_and_preprocess --explain  shows all values",
                **suggestion(key, known),
            )


def read_override(key: str, text: str) -> Any:
    """Read the value of a key that ``check_keys`` accepts.

    Raises:
        UsageError: ``E-SET-02`` an unusable value, ``E-SET-03`` one of another type, ``E-NAME-01`` no such scheme.
    """
    if not key.startswith("intensity."):
        kind, expected, holds = _KEYS[key]
        value = read_value(key, text, kind)
        if not holds(value):
            raise unusable(key, text, expected)
        return value
    rule = read_rule(text)
    if rule is None:
        forms = {name: INTENSITY_SCHEMES.get(name).form for name in INTENSITY_SCHEMES.names()}
        raise unusable(key, text, "; ".join(f"{name}: {form}" for name, form in forms.items()))
    return rule


def unusable(key: str, text: str, expected: str) -> UsageError:
    """The error for a value that does not suit its key (``E-SET-02``)."""
    return UsageError(
        "E-SET-02",
        what=f"{text!r} is no value for {key}",
        found=f"--set {key}={text}",
        expected=expected,
        fix="samora_plan_and_preprocess --explain  shows all values",
    )
