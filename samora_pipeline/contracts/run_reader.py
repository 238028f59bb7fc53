"""The one way in which a config.json is read: what it names as code is accepted only where the user allows that.

A config.json may come from anywhere, and a name such as ``package.module:Class`` in it decides what is imported when
the network is built. Names that are typed in a command or passed in Python are trusted; names in a file are not.
"""

from pathlib import Path
from typing import Any

from samora_pipeline.contracts.json_io import parse, read_object
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.errors import DataError
from samora_pipeline.registry import is_code_name


def read_run_config(path: Path, *, allow_code: bool = False) -> RunConfig:
    """Read a config.json; nothing that it names is imported here.

    Args:
        path: the file.
        allow_code: accept a file that names code. Commands that only show names, and build nothing, may set it.

    Raises:
        DataError: ``E-CODE-01`` code is named and not allowed, ``E-JSON-..`` a file of another form.
    """
    return parse_run_config(read_object(path), path, allow_code=allow_code)


def parse_run_config(plain: Any, path: Path, *, allow_code: bool = False) -> RunConfig:
    """As ``read_run_config``, from the plain values of the JSON; ``path`` is only named in errors."""
    code = named_code(plain)
    if code and not allow_code:
        raise DataError("E-CODE-01", path=path, found=f"{', '.join(code)} in {path}")
    return parse(RunConfig, plain, str(path))


def named_code(plain: Any) -> tuple[str, ...]:
    """Every string in plain JSON values that names code (``package.module:Class``), keys included; sorted."""
    found, waiting = set(), [plain]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, str) and is_code_name(value):
            found.add(value)
    return tuple(sorted(found))
