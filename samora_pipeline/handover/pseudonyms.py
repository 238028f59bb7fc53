"""An exported config contains no case identifiers and no folders: it has pseudonyms, the same in all folds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from samora_pipeline.contracts.json_io import parse, to_plain
from samora_pipeline.contracts.postprocessing import PostProcessing
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.files import digest_json

_LISTS = ("scored", "excluded_leaks", "allowed_leaks", "held_out")
_LISTS_OF = (("selection", "cases"), ("selection", "slices"), ("pool", "excluded"), ("pool", "copies"))


def pseudonyms(configs: Iterable[RunConfig]) -> dict[str, str]:
    """A pseudonym for every case that the configs name; its number follows a digest and gives no order away."""
    names = {name for config in configs for holder, key in _case_lists(to_plain(config)) for name in holder[key]}
    ordered = sorted(names, key=lambda name: digest_json(["case", name]))
    return {name: f"pseudonym_{number:04d}" for number, name in enumerate(ordered, start=1)}


def without_names(config: RunConfig, names: dict[str, str]) -> RunConfig:
    """The config with pseudonyms in place of cases, and with file names in place of paths."""
    plain = to_plain(config)
    for holder, key in _case_lists(plain):
        cases = holder[key]
        hidden = sorted((names[case], case) for case in cases)
        holder[key] = (
            {name: cases[case] for name, case in hidden} if isinstance(cases, dict) else [n for n, _ in hidden]
        )
    exported: RunConfig = parse(RunConfig, _without_folders(plain), "the exported config")
    return exported


def postprocessing_without_names(record: PostProcessing, names: dict[str, str]) -> PostProcessing:
    """The record of post-processing with pseudonyms; a case that no config names gets none and is left out."""
    return replace(record, held_out=tuple(sorted(names[case] for case in record.held_out if case in names)))


def _case_lists(plain: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every object and key in a plain config under which case identifiers stand, in a list or as keys."""
    yield from ((plain, key) for key in _LISTS)
    yield from ((plain[part], key) for part, key in _LISTS_OF)
    yield from ((plain["pool"]["cases"], dataset) for dataset in plain["pool"]["cases"])


def _without_folders(plain: Any) -> Any:
    """Plain values in which every text that is a path of either kind of system is its last part."""
    if isinstance(plain, dict):
        return {key: _without_folders(value) for key, value in plain.items()}
    if isinstance(plain, list):
        return [_without_folders(value) for value in plain]
    if not isinstance(plain, str):
        return plain
    absolute = PurePosixPath(plain).is_absolute() or PureWindowsPath(plain).is_absolute()
    relative = any(sign in plain for sign in "/\\") and not any(map(str.isspace, plain))
    return PureWindowsPath(plain).name if absolute or relative else plain
