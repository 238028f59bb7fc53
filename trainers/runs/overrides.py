"""``--set finetune.epochs=20``: typed changes to the settings of a run, refused when name or type is wrong.

The options of an exchangeable part are named like its other fields: ``model.fusion.temperature=2``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from samora_pipeline.contracts.json_io import parse, to_plain
from samora_pipeline.contracts.options import read_value, split_assignment
from samora_pipeline.errors import UsageError
from samora_pipeline.registry import nearest

OPTIONS = "options"
Leaves = dict[str, Any]


def apply_overrides(settings: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return ``settings`` (frozen dataclasses by name) with each ``name.to.field=value`` applied, in order.

    Values are written as in JSON or bare: ``20``, ``5e-3``, ``true``, ``none``, ``0.9,0.99``, ``hl_attn``.

    Raises:
        UsageError: ``E-SET-01`` an unknown name, with the nearest one; ``E-SET-02`` not of the form name=value;
            ``E-SET-03`` a value of another type.
    """
    types_of = {name: kind for part, value in settings.items() for name, kind in _types(part, value).items()}
    plain = {name: to_plain(value) for name, value in settings.items()}
    for assignment in assignments:
        name, text = split_assignment(assignment, "finetune.epochs=20")
        if name not in types_of:
            raise UsageError(
                "E-SET-01",
                hints=nearest(name, list(types_of)),
                hints2=", ".join(types_of),
                what=f'there is no setting "{name}"',
                found=name,
            )
        _assign(plain, name.split("."), to_plain(read_value(name, text, types_of[name])))
    return {name: parse(type(value), plain[name], name) for name, value in settings.items()}


def differences(settings: Mapping[str, Any], default: Mapping[str, Any]) -> Leaves:
    """Return the settings that are not those of ``default``, by dotted name, as plain JSON."""
    mine, theirs = _leaves(to_plain(dict(settings))), _leaves(to_plain(dict(default)))
    return {name: value for name, value in mine.items() if name not in theirs or theirs[name] != value}


def _types(prefix: str, value: Any) -> Leaves:
    """Dotted names of all settings of a dataclass and their types; those of options are the types of their values."""
    found: Leaves = {}
    hints = get_type_hints(type(value))
    for field, inner in ((field, vars(value)[field.name]) for field in dataclasses.fields(value)):
        name = f"{prefix}.{field.name}"
        if field.name == OPTIONS:
            found |= {f"{prefix}.{option}": _type_of(given) for option, given in inner.items()}
        elif dataclasses.is_dataclass(inner):
            found |= _types(name, inner)
        else:
            found[name] = hints[field.name]
    return found


def _type_of(value: Any) -> Any:
    """The type of an option, from its value as plain JSON."""
    if value is None:
        return Any
    return tuple[Any, ...] if isinstance(value, list) else type(value)


def _leaves(plain: Any, name: str = "") -> Leaves:
    if not isinstance(plain, dict):
        return {name: plain}
    prefix = f"{name}." if name else ""
    return {
        path: leaf
        for key, value in plain.items()
        for path, leaf in _leaves(value, name if key == OPTIONS else f"{prefix}{key}").items()
    }


def _assign(plain: dict[str, Any], path: list[str], value: Any) -> None:
    *folders, last = path
    for name in folders:
        plain = plain[name]
    (plain if last in plain else plain[OPTIONS])[last] = value
