"""``--set finetune.epochs=20``: typed changes to nested settings, refused when name or type is wrong."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Sequence
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from samora_pipeline.contracts.json_io import parse
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.registry import nearest

T = TypeVar("T")


def apply_overrides(settings: T, assignments: Sequence[str]) -> T:
    """Return ``settings`` (nested frozen dataclasses) with each ``path.to.field=value`` applied, in order.

    Values are written as in JSON or bare: ``20``, ``5e-3``, ``true``, ``none``, ``0.9,0.99``, ``hl_attn``.

    Raises:
        UsageError: ``E-SET-01`` an unknown name, with the nearest one; ``E-SET-02`` not of the form name=value;
            ``E-SET-03`` a value of another type.
    """
    known = _leaves(settings)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise UsageError(
                "E-SET-02",
                f'--set "{assignment}" assigns nothing',
                found=assignment,
                expected="name=value",
                fix="--set finetune.epochs=20",
            )
        if name not in known:
            raise UsageError(
                "E-SET-01",
                f'there is no setting "{name}"',
                found=name,
                expected=f"{nearest(name, list(known))}known: {', '.join(known)}",
            )
        settings = _replaced(settings, name.split("."), _value(name, text, known[name]))
    return settings


def differences(settings: Any, default: Any) -> dict[str, Any]:
    """Return the settings that are not those of ``default``, by dotted name."""
    mine, theirs = _flat(settings), _flat(default)
    return {name: value for name, value in mine.items() if theirs.get(name, dataclasses.MISSING) != value}


def _value(name: str, text: str, kind: Any) -> Any:
    try:
        return parse(kind, _plain(text, kind), name)
    except DataError as error:
        raise UsageError(
            "E-SET-03", f'--set {name} does not take "{text}"', found=text, expected=error.expected
        ) from error


def _plain(text: str, kind: Any) -> Any:
    """Bring bare text into the JSON form that ``parse`` checks strictly."""
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if type(None) in options and text.lower() in ("none", "null"):
        return None
    if any(get_origin(option) is tuple for option in options):
        return [_scalar(item) for item in text.strip("[]()").split(",") if item.strip()]
    if str in options:
        return text
    return _scalar(text)


def _scalar(text: str) -> Any:
    bare = text.strip()
    try:
        value = json.loads(bare.lower() if bare.lower() in ("true", "false") else bare)
    except ValueError:
        return bare
    # NaN and Infinity are read by Python's json although they are not JSON; no setting is either.
    return bare if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value


def _leaves(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names of all settings below ``settings`` and their types."""
    leaves: dict[str, Any] = {}
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            leaves |= _leaves(value, f"{prefix}{field.name}.")
        else:
            leaves[f"{prefix}{field.name}"] = hints[field.name]
    return leaves


def _flat(settings: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in _leaves(settings):
        value = settings
        for part in name.split("."):
            value = getattr(value, part)
        values[name] = value
    return values


def _replaced(settings: Any, path: list[str], value: Any) -> Any:
    head, *rest = path
    inner = _replaced(getattr(settings, head), rest, value) if rest else value
    return dataclasses.replace(settings, **{head: inner})
