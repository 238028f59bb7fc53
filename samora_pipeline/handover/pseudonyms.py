"""Names of cases do not leave the house: an exported config has pseudonyms that are the same in all folds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from samora_pipeline.contracts.postprocessing import PostProcessing
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.files import digest_json


def pseudonyms(configs: Iterable[RunConfig]) -> dict[str, str]:
    """A pseudonym for every case that the configs name; its number follows a digest and tells no order."""
    names = {name for config in configs for name in _cases(config)}
    ordered = sorted(names, key=lambda name: digest_json(["case", name]))
    return {name: f"pseudonym_{number:04d}" for number, name in enumerate(ordered, start=1)}


def without_names(config: RunConfig, names: dict[str, str]) -> RunConfig:
    """The config with pseudonyms in place of cases, and with file names in place of paths."""

    def hidden(cases: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(names[case] for case in cases))

    selection, pool = config.selection, config.pool
    return replace(
        config,
        base=replace(config.base, name=_file_name(config.base.name)),
        teachers={
            level: replace(teacher, weights=_file_name(teacher.weights)) for level, teacher in config.teachers.items()
        },
        selection=replace(
            selection,
            cases=hidden(selection.cases),
            slices={names[case]: indices for case, indices in selection.slices.items()},
        ),
        scored=hidden(config.scored),
        pool=replace(
            pool,
            cases={dataset: hidden(cases) for dataset, cases in pool.cases.items()},
            excluded=hidden(pool.excluded),
            copies=hidden(pool.copies),
        ),
        excluded_leaks=hidden(config.excluded_leaks),
        allowed_leaks=hidden(config.allowed_leaks),
        held_out=hidden(config.held_out),
    )


def postprocessing_without_names(record: PostProcessing, names: dict[str, str]) -> PostProcessing:
    """The record of post-processing with pseudonyms; a case that no config names gets none and is left out."""
    return replace(record, held_out=tuple(sorted(names[case] for case in record.held_out if case in names)))


def _cases(config: RunConfig) -> set[str]:
    pool = (case for cases in config.pool.cases.values() for case in cases)
    return {
        *(*config.selection.cases, *config.selection.slices, *config.scored, *pool),
        *(*config.pool.excluded, *config.pool.copies),
        *(*config.excluded_leaks, *config.allowed_leaks, *config.held_out),
    }


def _file_name(name: str) -> str:
    """The last part of what may be a path of either kind of system; catalogue names stay as they are."""
    return PurePosixPath(PureWindowsPath(Path(name).as_posix()).as_posix()).name
