"""JSON to frozen dataclasses and back. Unknown keys and wrong types are refused with the path of the fault."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from samora_pipeline.errors import DataError
from samora_pipeline.files import write_text

T = TypeVar("T")


def read_json(cls: type[T], path: Path) -> T:
    """Read ``path`` as a ``cls`` (a frozen dataclass, usually with ``schema_version`` as its first field).

    Raises:
        DataError: ``E-JSON-01`` missing file, ``E-JSON-02`` not JSON, ``E-JSON-03`` wrong content.
    """
    value: T = parse(cls, read_object(path), str(path))
    return value


def write_json(value: Any, path: Path) -> None:
    """Write a dataclass to ``path`` atomically, indented, keys in the order of the fields."""
    write_text(path, json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_object(path: Path) -> Any:
    """Read any JSON file, refusing NaN, Infinity and repeated keys."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(
            "E-JSON-01", f"{path.name} is missing", found=f"no file {path}", expected="a JSON file written by this tool"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("E-JSON-02", f"{path.name} cannot be read", found=f"{path}: {error}") from error
    return read_text(text, path)


def read_text(text: str, path: Path) -> Any:
    """Read the text of a JSON file by the same rules; ``path`` is only named in errors."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise DataError(
            "E-JSON-02", f"{path.name} is not valid JSON", found=f"{path}: {error}", expected="standard JSON in UTF-8"
        ) from error


def to_plain(value: Any) -> Any:
    """Return ``value`` as dicts, lists and scalars, ready for ``json.dumps``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return value.as_posix()
    return value


def parse(cls: Any, plain: Any, where: str) -> Any:
    """Return ``plain`` (from ``json.loads``) as a ``cls``; ``where`` is the path shown in errors."""
    origin = get_origin(cls)
    if cls is Any:
        return plain
    if dataclasses.is_dataclass(origin or cls):
        return _parse_dataclass(cls, plain, where)
    if origin in (Union, types.UnionType):
        return _parse_union(cls, plain, where)
    if origin is Literal:
        if plain in get_args(cls) and type(plain) in {type(option) for option in get_args(cls)}:
            return plain
        raise _wrong(where, plain, " or ".join(repr(option) for option in get_args(cls)))
    if origin is tuple:
        return _parse_tuple(cls, plain, where)
    if origin is dict:
        if not isinstance(plain, dict):
            raise _wrong(where, plain, "an object")
        key_type, item_type = get_args(cls)
        return {
            _parse_key(key_type, key, where): parse(item_type, item, f"{where}.{key}") for key, item in plain.items()
        }
    return _parse_scalar(cls, plain, where)


def _parse_dataclass(cls: Any, plain: Any, where: str) -> Any:
    origin = get_origin(cls) or cls
    if not isinstance(plain, dict):
        raise _wrong(where, plain, f"an object with the keys of {origin.__name__}")
    hints = get_type_hints(origin)
    substitutes = dict(zip(getattr(origin, "__parameters__", ()), get_args(cls), strict=False))
    fields = {field.name: field for field in dataclasses.fields(origin)}
    unknown = sorted(set(plain) - set(fields))
    if unknown:
        raise _wrong(f"{where}.{unknown[0]}", "an unknown key", f"one of {', '.join(fields)}")
    values = {}
    for name, field in fields.items():
        if name in plain:
            values[name] = parse(substitutes.get(hints[name], hints[name]), plain[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise _wrong(f"{where}.{name}", "nothing", "a value (the key is required)")
    _check_version(fields, values, where)
    return origin(**values)


def _check_version(fields: dict[str, Any], values: dict[str, Any], where: str) -> None:
    if "schema_version" in fields:
        known = fields["schema_version"].default
        if values.get("schema_version", known) != known:
            raise _wrong(f"{where}.schema_version", values["schema_version"], f"{known} (written by another version)")


def _parse_union(cls: Any, plain: Any, where: str) -> Any:
    options = get_args(cls)
    if plain is None and type(None) in options:
        return None
    errors = []
    for option in (option for option in options if option is not type(None)):
        try:
            return parse(option, plain, where)
        except DataError as error:
            errors.append(error)
    raise errors[0]


def _parse_tuple(cls: Any, plain: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(plain, list):
        raise _wrong(where, plain, "a list")
    item_types = get_args(cls)
    if len(item_types) == 2 and item_types[1] is Ellipsis:
        item_types = (item_types[0],) * len(plain)
    if len(item_types) != len(plain):
        raise _wrong(where, f"{len(plain)} items", f"{len(item_types)} items")
    pairs = zip(item_types, plain, strict=True)
    return tuple(parse(item_type, item, f"{where}[{i}]") for i, (item_type, item) in enumerate(pairs))


def _parse_key(cls: Any, key: str, where: str) -> Any:
    if cls is int:
        if key.lstrip("-").isdigit():
            return int(key)
        raise _wrong(f"{where}.{key}", key, "an integer key")
    return parse(cls, key, where)


def _parse_scalar(cls: Any, plain: Any, where: str) -> Any:
    if isinstance(cls, type) and issubclass(cls, Enum):
        try:
            return cls(plain)
        except ValueError as error:
            raise _wrong(where, plain, " or ".join(repr(item.value) for item in cls)) from error
    if cls is float and isinstance(plain, int | float) and not isinstance(plain, bool):
        return float(plain)
    if cls in (int, str, bool) and type(plain) is cls:
        return plain
    raise _wrong(where, plain, getattr(cls, "__name__", str(cls)))


def _wrong(where: str, found: Any, expected: str) -> DataError:
    shown = found if isinstance(found, str) else json.dumps(to_plain(found))
    return DataError("E-JSON-03", f"{where} is not as expected", found=shown[:200], expected=expected)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON ({math.nan} values are written as null)")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return result
