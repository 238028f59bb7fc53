"""Values that a user gives: options of an exchangeable part (fusion, noise, network), and ``--set key=value``."""

import dataclasses
import json
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from samora_pipeline.contracts.json_io import parse, to_plain
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.registry import suggestion

T = TypeVar("T")


def read_options(cls: type[T], options: Mapping[str, Any], part: str) -> T:
    """Return ``options`` as the part's own frozen dataclass; options that are left out have its defaults.

    Args:
        cls: the dataclass, of plain JSON types.
        options: values by name.
        part: what the error calls the part, such as ``fusion "mole"``.

    Raises:
        UsageError: ``E-SET-01`` an option that the part does not have, ``E-SET-03`` a value of another type.
    """
    hints = {field.name: get_type_hints(cls)[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {}
    for name, value in options.items():
        if name not in hints:
            raise UsageError("E-SET-01", f'{part} has no option "{name}"', found=name, **suggestion(name, hints))
        try:
            values[name] = parse(hints[name], to_plain(value), name)
        except DataError as error:
            what = f"{name} of {part} does not take this value"
            raise UsageError("E-SET-03", what, found=str(value), expected=error.expected) from error
    return cls(**values)


def split_assignment(text: str, example: str) -> tuple[str, str]:
    """Split ``key=value``; ``example`` is the fix that the error shows. The value may be empty.

    Raises:
        UsageError: ``E-SET-02`` without a key or an equals sign.
    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UsageError("E-SET-02", found=text, expected="name=value", fix=f"--set {example}")
    return key, value


def read_value(key: str, text: str, kind: Any) -> Any:
    """Read ``text`` as a value of the type ``kind``. Values are written as in JSON or bare: ``20``, ``5e-3``, ``true``,
    ``none``, ``0.9,0.99``, ``hl_attn``.

    Raises:
        UsageError: ``E-SET-03`` a value of another type.
    """
    try:
        return parse(kind, _plain(text, kind), key)
    except DataError as error:
        raise UsageError("E-SET-03", key=key, text=text, found=text, expected=error.expected) from error


def flat(plain: Any, name: str = "") -> dict[str, Any]:
    """Everything in nested objects by dotted name; an empty one is a leaf."""
    if isinstance(plain, dict):
        joined = {key: f"{name}.{key}" if name else key for key in plain}
        return {path: leaf for key, value in plain.items() for path, leaf in flat(value, joined[key]).items()} or {
            name: {}
        }
    return {name: plain}


def _plain(text: str, kind: Any) -> Any:
    """Bring bare text into the JSON form that ``parse`` checks strictly."""
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if type(None) in options and text.lower() in ("none", "null"):
        return None
    if any((get_origin(option) or option) in (tuple, list) for option in options):
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
