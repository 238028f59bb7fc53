"""Look-up by name, with the nearest names in the error; ``package.module:Name`` reaches code outside."""

import difflib
import importlib
import re
from collections.abc import Callable
from typing import Generic, TypeVar

from samora_pipeline.errors import UsageError

T = TypeVar("T")

_CODE_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_code_name(text: str) -> bool:
    """Whether a text has the form ``package.module:Name``; nothing of another form is ever imported."""
    return _CODE_NAME.fullmatch(text) is not None


def nearest(name: str, known: list[str]) -> str:
    """Return ``did you mean X?`` for the closest known name, ignoring case, or an empty string."""
    lowered = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    return f"did you mean {lowered[close[0]]}? " if close else ""


class Registry(Generic[T]):
    """Names of one kind of part (backbone, fusion, converter, trainer, ...) and what they stand for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._places: dict[str, str] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files its target under ``name``; a name can be given once."""

        def keep(entry: T) -> T:
            self._refuse_twice(name)
            self._entries[name] = entry
            return entry

        return keep

    def register_place(self, name: str, place: str) -> None:
        """File ``package.module:Name`` under ``name``; it is imported when it is first asked for, not by its name."""
        self._refuse_twice(name)
        self._places[name] = place

    def names(self) -> list[str]:
        """All registered names, in order of registration; those of places first."""
        return [*self._places, *(name for name in self._entries if name not in self._places)]

    def check(self, name: str) -> None:
        """Refuse a name that is neither registered nor of the form of code (``E-NAME-01``); nothing is imported."""
        if name not in self.names() and not is_code_name(name):
            raise self._unknown(name)

    def get(self, name: str) -> T:
        """Return the entry called ``name``, or the object that ``package.module:Name`` points to.

        Raises:
            UsageError: ``E-NAME-01`` when neither a registered name nor an importable path.
        """
        if name in self._entries:
            return self._entries[name]
        if name in self._places:
            module, _, attribute = self._places[name].partition(":")
            self._entries[name] = getattr(importlib.import_module(module), attribute)
            return self._entries[name]
        if ":" in name:
            return self._import(name)
        raise self._unknown(name)

    def _unknown(self, name: str) -> UsageError:
        expected = f"{nearest(name, self.names())}known: {', '.join(self.names())}"
        return UsageError("E-NAME-01", kind=self.kind, name=name, found=name, expected=expected)

    def _refuse_twice(self, name: str) -> None:
        if name in self._entries or name in self._places:
            raise ValueError(f"{self.kind} {name!r} is registered twice")

    def _import(self, path: str) -> T:
        module_name, _, attribute = path.partition(":")
        try:
            if not is_code_name(path):
                raise ValueError("not of the form package.module:Name")
            entry: T = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise UsageError(
                "E-NAME-01",
                what=f'the {self.kind} "{path}" cannot be imported',
                found=str(error),
                expected="package.module:Name, with the package installed in this environment",
                fix=f'python -c "from {module_name} import {attribute}"  shows the cause',
            ) from error
        return entry
