"""Look-up by name, with the nearest names in the error; ``package.module:Name`` reaches code outside."""

import difflib
import importlib
import re
from collections.abc import Callable, Iterable
from typing import Generic, TypedDict, TypeVar

from samora_pipeline.errors import AssetError, UsageError

T = TypeVar("T")

MOST_NAMES = 10
"""names that a message lists at most"""
_FEW = 3
_NEAR = 0.5
_PART_WEIGHT = 0.95
_CODE_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_code_name(text: str) -> bool:
    """Whether a text has the form ``package.module:Name``; nothing of another form is ever imported."""
    return _CODE_NAME.fullmatch(text) is not None


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean X?`` for the closest known name, ignoring case, or an empty string."""
    close = closest(name, known)
    return f"did you mean {close}? " if close else ""


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, ignoring case; empty where none is near."""
    ranked = _ranked(name, known)
    return ranked[0][1] if ranked and ranked[0][0] >= _NEAR else ""


class Suggestion(TypedDict):
    """What an error about an unknown name says of the known ones (``errors.SamoraError``)."""

    expected: str
    typo: tuple[str, str] | None


def suggestion(name: str, known: Iterable[str]) -> Suggestion:
    """The known names and the one that was probably meant; of more than ten the three nearest only."""
    names = list(known)
    meant = closest(name, names)
    typo = (name, meant) if meant else None
    if len(names) <= MOST_NAMES:
        hint = f"did you mean {meant}? " if meant else ""
        return {"expected": f"{hint}known: {', '.join(names) or 'none'}", "typo": typo}
    near = [candidate for _, candidate in _ranked(name, names)[:_FEW]]
    listed = f"{', '.join(near[:-1])} or {near[-1]}"
    return {"expected": f"did you mean {listed}? ... and {len(names) - _FEW} more", "typo": typo}


def shortened(names: Iterable[str], between: str = ", ") -> str:
    """The names one after the other, at most ten of them; then how many more there are."""
    every = list(names)
    if len(every) <= MOST_NAMES:
        return between.join(every)
    return f"{between.join(every[:MOST_NAMES])} and {len(every) - MOST_NAMES} more"


def _ranked(name: str, known: Iterable[str]) -> list[tuple[float, str]]:
    """Known names with their likeness from 0 to 1, the nearest first; of dotted names the last part counts too."""
    wanted = name.lower()

    def likeness(text: str) -> float:
        return difflib.SequenceMatcher(None, wanted, text).ratio()

    scores = [
        (max(likeness(one.lower()), _PART_WEIGHT * likeness(one.lower().rpartition(".")[2])), one) for one in known
    ]
    return sorted(scores, key=lambda score: -score[0])


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
            AssetError: ``E-NAME-03`` when the library behind a registered name is not installed.
        """
        if name in self._entries:
            return self._entries[name]
        if name in self._places:
            module, _, attribute = self._places[name].partition(":")
            try:
                self._entries[name] = getattr(importlib.import_module(module), attribute)
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] == module.partition(".")[0]:
                    raise
                raise AssetError("E-NAME-03", kind=self.kind, name=name, found=str(error)) from error
            return self._entries[name]
        if ":" in name:
            return self._import(name)
        raise self._unknown(name)

    def _unknown(self, name: str) -> UsageError:
        return UsageError("E-NAME-01", kind=self.kind, name=name, found=name, **suggestion(name, self.names()))

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
