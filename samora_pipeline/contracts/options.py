"""Options of an exchangeable part (fusion, noise, network): a dictionary in a file, a frozen dataclass in code."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

from samora_pipeline.contracts.json_io import parse, to_plain
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.registry import nearest

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
            raise UsageError(
                "E-SET-01",
                hints=nearest(name, list(hints)),
                hints2=", ".join(hints) or "none",
                what=f'{part} has no option "{name}"',
                found=name,
            )
        try:
            values[name] = parse(hints[name], to_plain(value), name)
        except DataError as error:
            raise UsageError(
                "E-SET-03", what=f"{name} of {part} does not take this value", found=str(value), expected=error.expected
            ) from error
    return cls(**values)
