"""Commands called from Python: arguments by the names of the options, errors raised, nothing exits.

``tta=True`` is ``--tta``, ``folds=[0, 1]`` is ``-f 0 1``, ``set={"a.b": 2}`` is ``--set a.b=2``.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from samora_pipeline.command_line import EXIT_FAILED_CASES, CommandParser
from samora_pipeline.errors import FailedCasesError
from samora_pipeline.registry import closest

T = TypeVar("T")


def call(parser: CommandParser, command: Callable[[argparse.Namespace], T], words: list[str]) -> T:
    """Parse words and run a command.

    Raises:
        TypeError: an argument is missing or has a value of another kind.
        SamoraError: what the command refuses; ``FailedCasesError`` (``E-CASE-05``) when it finished without some cases.
    """
    result = command(parser.parsed(words))
    if result == EXIT_FAILED_CASES and isinstance(result, int):
        raise FailedCasesError(
            "E-CASE-05", prog=parser.prog, found="they are named above, and in the JSON file it wrote"
        )
    return result


def words_of(parser: CommandParser, given: Mapping[str, object]) -> list[str]:
    """The words of a command line that says the same as arguments in Python; None is left out.

    Raises:
        TypeError: the command has no such argument.
    """
    options = {name.replace("-", "_"): action for name, action in parser.by_name().items()}
    positional = {action.dest: action for action in parser.positional()}
    for name in given:
        if name not in options and name not in positional:
            near = closest(name, [*positional, *options])
            raise TypeError(f"{parser.prog} has no argument {name!r}{f'; did you mean {near}?' if near else ''}")
    words = [word for dest in positional if given.get(dest) is not None for word in _texts(given[dest])]
    for name, value in given.items():
        if name not in positional and value is not None:
            words += _option(options[name], value)
    return words


def _option(action: argparse.Action, value: object) -> list[str]:
    if isinstance(action, argparse.BooleanOptionalAction):
        return [action.option_strings[0 if value else -1]]
    flag = max(action.option_strings, key=len)
    if action.nargs == 0:
        return [flag] if value else []
    if isinstance(action.default, list) and action.nargs is None:
        # It may be repeated: --set K=V --set K=V.
        return [word for text in _texts(value) for word in (flag, text)]
    if action.nargs in ("+", "*"):
        return [flag, *_texts(value)]
    text = ",".join(_texts(value))
    return [f"{flag}={text}"] if flag.startswith("--") else [flag, text]


def _texts(value: object) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{name}={_text(one)}" for name, one in value.items()]
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [str(one) for one in value]
    return [str(value)]


def _text(value: object) -> str:
    """A value as ``--set`` reads it."""
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
