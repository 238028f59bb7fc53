"""Where the golden runs of two commits differ: bit by bit on one machine, or within a tolerance across machines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from tests.golden.meaning import ADDED, REMOVED, WITHOUT_EFFECT

_SETTINGS = ("settings", "resolved")
_DIGEST = "sha256"
_PREDICTIONS = "predictions"
_VOXELS = 50
"""of 5,120: as many may change their label between machines, because the networks are almost untrained"""


def differences(old: Any, new: Any, tolerance: float | None = None) -> Iterator[str]:
    """One line per value that differs, dotted path first, in the order of ``old``.

    ``tolerance``: how much two floats may differ relatively, digests of tensors are not compared then; None: not at
    all. A setting that only ``new`` has is no difference where ``meaning.ADDED`` names it.
    """
    yield from _compare((), old, new, tolerance)


def _compare(path: tuple[str, ...], old: Any, new: Any, tolerance: float | None) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _compare_objects(path, old, new, tolerance)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from _compare((*path, str(index)), *pair, tolerance)
    elif not _equal(path, old, new, None if _is_setting(path) else tolerance):
        yield f"{' / '.join(path)}: {old!r} -> {new!r}"


def _compare_objects(
    path: tuple[str, ...], old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float | None
) -> Iterator[str]:
    for name, value in old.items():
        if name == _DIGEST and tolerance is not None:
            continue
        if name in new:
            yield from _compare((*path, name), value, new[name], tolerance)
        elif not (name in REMOVED and value is None) and not any((run, name) in WITHOUT_EFFECT for run in path):
            yield f"{' / '.join((*path, name))}: {value!r} -> nothing"
    for name in new.keys() - old.keys():
        if not (_is_setting(path) and name.startswith(ADDED)):
            yield f"{' / '.join((*path, name))}: nothing -> {new[name]!r}"


def _is_setting(path: tuple[str, ...]) -> bool:
    return any(name in path for name in _SETTINGS)


def _equal(path: tuple[str, ...], old: Any, new: Any, tolerance: float | None) -> bool:
    if tolerance is not None and isinstance(old, float) and isinstance(new, int | float):
        # What is almost nothing, as a gap with an untrained expert, is made of rounding alone.
        return math.isclose(old, new, rel_tol=tolerance, abs_tol=1e-5)
    if tolerance is not None and _PREDICTIONS in path:
        return abs(old - new) <= _VOXELS
    numbers = {type(old), type(new)} == {int, float}
    return bool(old == new) and (type(old) is type(new) or numbers)
