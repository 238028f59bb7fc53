"""What config.json of a run says of its stages: the only place of the reporting that reads them there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from samora_pipeline.contracts.run import RunConfig


def stage_settings(config: RunConfig) -> dict[str, Any]:
    """The resolved settings by stage, as plain JSON."""
    return {record.name: record.settings for record in config.stages}


def experts_and_teachers(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Pairs of a name and what is known of it: the key of each expert, the origin of each teacher."""
    for expert, record in config.experts.items():
        yield f"expert {expert}", f"key {record.key}"
    for level, teacher in config.teachers.items():
        origin = teacher.weights or teacher.origin
        yield f"teacher {level}", f"{teacher.network} from {origin}, {teacher.licence or '-'}"


def pretrained_stages(configs: Iterable[RunConfig]) -> list[tuple[str, str]]:
    """The stages without labels and the keys of their results, over all folds, each once."""
    pairs = [(record.name, record.key) for config in configs for record in config.stages if record.key]
    return list(dict.fromkeys(pairs))
