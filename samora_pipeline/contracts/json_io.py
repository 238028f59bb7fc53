"""JSON to frozen dataclasses and back. Unknown keys and wrong types are refused with the path of the fault."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from cattrs import BaseValidationError, Converter, ForbiddenExtraKeysError
from cattrs.errors import AttributeValidationNote
from cattrs.gen import make_dict_structure_fn, mapping_structure_factory

from samora_pipeline.errors import DataError, SamoraError
from samora_pipeline.files import digest_json, require_regular, write_text

T = TypeVar("T")

_HALF = "\\ud"
_PLAN = "samora_plan_and_preprocess -d DATASET"
# What writes the files of a class; where none is named it is samora_train.
_WRITERS = {
    **dict.fromkeys(("Fingerprint", "IntegrityReport", "Plans", "Splits", "StoredCase"), _PLAN),
    "SamoraJson": "samora_convert",
    "Summary": "samora_evaluate",
}


def read_json(cls: type[T], path: Path) -> T:
    """Read ``path`` as a ``cls`` (a frozen dataclass, usually with ``schema_version`` as its first field).

    Raises:
        DataError: ``E-JSON-01`` missing file, ``E-JSON-02`` not JSON, ``E-JSON-03`` wrong content,
            ``E-JSON-04`` written by another version.
    """
    return parse(cls, read_object(path), str(path))


def write_json(value: Any, path: Path) -> None:
    """Write a dataclass to ``path`` atomically, indented, keys in the order of the fields."""
    write_text(path, json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_object(path: Path) -> Any:
    """Read any JSON file, refusing NaN, Infinity and repeated keys."""
    try:
        require_regular(path)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError("E-JSON-01", path=path, found=f"no file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("E-JSON-02", path=path, found=f"{path}: {error}") from error
    return read_text(text, path)


def read_text(text: str, path: Path) -> Any:
    """Read the text of a JSON file by the same rules; ``path`` is only named in errors."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
        if _HALF in text.lower():
            # Half of a character; those that stand for bytes of a name that is not UTF-8 are written escaped.
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
        return value
    except (ValueError, RecursionError) as error:
        raise DataError("E-JSON-02", path=path, found=f"{path}: {error}") from error


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


def essential(value: Any) -> Any:
    """As ``to_plain``, without fields that have the default of their class, so that a field which a later version adds
    changes no digest.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            own.name: essential(getattr(value, own.name))
            for own in dataclasses.fields(value)
            if getattr(value, own.name) not in _defaults(own)
        }
    if isinstance(value, dict):
        return {str(key): essential(item) for key, item in value.items()}
    return [essential(item) for item in value] if isinstance(value, tuple | list) else to_plain(value)


def sealed(record: T) -> T:
    """A record (a dataclass with a field ``digest``) with the digest of all its other fields: a later edit shows."""
    bare: Any = dataclasses.replace(cast(Any, record), digest="")
    complete: T = dataclasses.replace(bare, digest=digest_json(essential(bare)))
    return complete


def is_edited(record: Any) -> bool:
    """Whether a record was changed after it was ``sealed``; one without a digest is of an earlier version."""
    return bool(record.digest) and record != sealed(record)


def _defaults(own: dataclasses.Field[Any]) -> list[Any]:
    if own.default is not dataclasses.MISSING:
        return [own.default]
    return [] if own.default_factory is dataclasses.MISSING else [own.default_factory()]


def parse(cls: type[T], plain: Any, where: str) -> T:
    """Return ``plain`` (from ``json.loads``) as a ``cls``; ``where`` is the path shown in errors.

    Nothing is converted: "1" and true are no int, 1.0 is no int (but 1 is a float). Unknown keys are refused. A
    union of dataclasses is told by their Literal field ``kind``; of other unions the first member that fits is taken.

    Raises:
        DataError: ``E-JSON-03`` wrong content, ``E-JSON-04`` a ``schema_version`` other than the class's default.
    """
    try:
        return _CONVERTER.structure(plain, cls)
    except (BaseValidationError, ValueError) as error:
        raise _located(error, plain, where) from None


def _located(error: Exception, plain: Any, where: str) -> SamoraError:
    """The first fault below ``error``, with its path and what stands there."""
    while isinstance(error, BaseValidationError):
        # An unknown key is the likeliest cause of whatever else is wrong in its object.
        error = min(error.exceptions, key=lambda one: not isinstance(one, ForbiddenExtraKeysError))
        for note in getattr(error, "__notes__", [])[-1:]:
            key = note.name if isinstance(note, AttributeValidationNote) else note.index
            where += f"[{key}]" if isinstance(key, int) else f".{key}"
            plain = plain.get(key, "nothing") if isinstance(plain, dict) else plain[key]
    if isinstance(error, SamoraError):
        return error
    if isinstance(error, ForbiddenExtraKeysError):
        names = ", ".join(field.name for field in dataclasses.fields(error.cl))
        return _wrong(f"{where}.{min(error.extra_fields)}", "an unknown key", f"one of {names}")
    if isinstance(error, _OtherVersionError):
        (cls,), found = error.args, f"schema_version {plain['schema_version']}"
        command = _WRITERS.get(cls.__name__, "samora_train")
        return DataError("E-JSON-04", where=where, found=found, version=cls.schema_version, command=command)
    # cattrs raises KeyError where a required key is missing.
    return _wrong(where, plain, "a value (the key is required)" if isinstance(error, KeyError) else str(error))


def _wrong(where: str, found: Any, expected: str) -> DataError:
    shown = found if isinstance(found, str) else json.dumps(to_plain(found))
    return DataError("E-JSON-03", where=where, found=shown[:200], expected=expected)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON ({math.nan} values are written as null)")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return result


class _OtherVersionError(ValueError):
    """The ``schema_version`` is not the default of the class."""


def _scalar(plain: Any, cls: Any) -> Any:
    if issubclass(cls, Enum):
        return _choice(plain, cls)
    if type(plain) is cls or (cls is float and type(plain) is int):
        return cls(plain)
    raise ValueError(cls.__name__)


def _choice(plain: Any, cls: Any) -> Any:
    choices = get_args(cls) or tuple(cls)
    for choice in choices:
        if plain == choice and isinstance(choice, type(plain)):
            return choice
    raise ValueError(" or ".join(repr(getattr(choice, "value", choice)) for choice in choices))


def _union(plain: Any, cls: Any) -> Any:
    members = [member for member in get_args(cls) if member is not NoneType]
    if plain is None and len(members) < len(get_args(cls)):
        return None
    errors = []
    # The member of the file's kind, or else all of them.
    for member in [one for one in members if isinstance(plain, dict) and plain.get("kind") in _kinds(one)] or members:
        try:
            return _CONVERTER.structure(plain, member)
        except (BaseValidationError, ValueError) as error:
            errors.append(error)
    raise errors[0]


@cache
def _kinds(cls: Any) -> tuple[str, ...]:
    """The values of a dataclass's Literal field ``kind``."""
    return get_args(get_type_hints(cls).get("kind")) if dataclasses.is_dataclass(cls) else ()


def _tuple(plain: Any, cls: Any) -> Any:
    kinds = get_args(cls)
    if not isinstance(plain, list):
        raise ValueError("a list")
    if kinds[-1] is not Ellipsis and len(plain) != len(kinds):
        raise ValueError(f"{len(kinds)} items")
    # Items of several types stand in no file.
    return tuple(_CONVERTER.structure(plain, list[kinds[0]]))  # type: ignore[valid-type]


def _dataclass(plain: Any, cls: Any) -> Any:
    origin = _origin(cls)
    if not isinstance(plain, dict):
        raise ValueError(f"an object with the keys of {origin.__name__}")
    version = getattr(origin, "schema_version", None)
    if plain.get("schema_version", version) != version:
        raise _OtherVersionError(origin)
    return _compiled(cls)(plain, cls)


def _mapping(plain: Any, cls: Any) -> Any:
    if not isinstance(plain, dict):
        raise ValueError("an object")
    if get_args(cls)[:1] == (int,):
        # Keys are texts in JSON.
        plain = {int(key) if key.isdecimal() else key: value for key, value in plain.items()}
    return _compiled(cls)(plain, cls)


@cache
def _compiled(cls: Any) -> Callable[[Any, Any], Any]:
    if get_origin(cls) is dict:
        return mapping_structure_factory(cls, _CONVERTER)
    return make_dict_structure_fn(cls, _CONVERTER, _cattrs_forbid_extra_keys=True)


def _origin(cls: Any) -> Any:
    """The class without its parameters."""
    return get_origin(cls) or cls


_CONVERTER = Converter()
for _kind in (int, float, str, bool):
    _CONVERTER.register_structure_hook(_kind, _scalar)
_CONVERTER.register_structure_hook_func(lambda cls: _origin(cls) is Literal, _choice)
_CONVERTER.register_structure_hook_func(lambda cls: _origin(cls) in (Union, UnionType), _union)
_CONVERTER.register_structure_hook_func(lambda cls: _origin(cls) is tuple, _tuple)
_CONVERTER.register_structure_hook_func(lambda cls: _origin(cls) is dict, _mapping)
_CONVERTER.register_structure_hook_func(lambda cls: dataclasses.is_dataclass(_origin(cls)), _dataclass)
