"""What happened on the pretended device, each event with the line of the project that caused it."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

_TORCH = str(Path(torch.__file__).parent) + os.sep
_PYTHON = str(Path(os.__file__).parent) + os.sep
_HERE = str(Path(__file__).resolve().parent) + os.sep
_INSIDES = "insides.py"
"""the one file beside this one whose lines may be named: it is not part of the device"""


class Ledger:
    """Counts of events.

    ``launches`` are by line, ``operations`` (launches too) by name, ``waits`` of the host by line and reason,
    ``unpinned`` copies by line, ``kinds`` of copies by line, ``dtypes`` by operation. ``costs`` has, per kind of
    operation and type, its calls, FLOPs and bytes read and written (of devices without numbers alone).
    """

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.unpinned: Counter[str] = Counter()
        self.kinds: Counter[tuple[str, str]] = Counter()
        self.dtypes: Counter[tuple[str, str]] = Counter()
        self.costs: dict[tuple[str, str], list[float]] = {}

    def clear(self) -> None:
        """Forget everything."""
        self.__init__()  # type: ignore[misc]


class Lines:
    """Names the line that an operation comes from. ``ours``: top folders of the packages whose lines are meant."""

    def __init__(self, ours: Sequence[str]) -> None:
        self.ours = tuple(ours)
        self._files: dict[str, tuple[str | None, str | None]] = {}

    def line(self) -> str:
        """The innermost line of ours on the stack, without ``ours`` the innermost outside of torch."""
        return self._look()[0]

    def cause(self, node: str) -> str:
        """The same with the line outside of torch that it led to and the ``node`` of the graph that is under way."""
        text, inner = self._look()
        backward = f", backward of {node}" if node else ""
        if inner not in ("", text):
            return f"{text} ({inner}{backward})"
        return f"{text} ({backward[2:]})" if backward else text

    def _look(self) -> tuple[str, str]:
        frame: Any = sys._getframe(2)
        inner = ""
        while frame is not None:
            path = frame.f_code.co_filename
            if path not in self._files:
                self._files[path] = _names_of(path, self.ours)
            own, other = self._files[path]
            if not inner and (own or other):
                inner = f"{own or other}:{frame.f_lineno}"
            if own:
                return f"{own}:{frame.f_lineno}", inner
            frame = frame.f_back
        return ("(torch)" if self.ours or not inner else inner), inner


def _names_of(path: str, ours: Sequence[str]) -> tuple[str | None, str | None]:
    """A source file's name if it is ours, and its name if it is a library's that is not torch nor Python."""
    below = path.rpartition("/site-packages/")[2] if "/site-packages/" in path else None
    for root in ours:
        if below is not None:
            if below.startswith(f"{root}/"):
                return below, None
        elif f"/{root}/" in path:
            return path[path.rfind(f"/{root}/") + 1 :], None
    if _is_device(path) or path.startswith(("<", _TORCH)) or (below is None and path.startswith(_PYTHON)):
        return None, None
    return None, below or "/".join(path.split("/")[-2:])


def _is_device(path: str) -> bool:
    name = path.removeprefix(_HERE)
    return name != path and not name.startswith("test_") and name != _INSIDES
