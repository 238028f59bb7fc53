"""What a config.json says, by meaning: its form changes between commits on purpose, its numbers must not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Flat = dict[str, Any]

RENAMED: dict[str, str] = {
    "fusion.options.order": "fusion.order",
    "fusion.options.residual": "fusion.residual",
}
"""today's dotted name of a setting -> its name at d8cf5ae"""

ADDED: tuple[str, ...] = (
    *("augmentation.", "views.", "noise.", "learns", "continued", "kind", "consistency"),
    *("self_training", "neighbours", "started_from"),
    *("normalised", "skip_flat"),  # of the bootstrap
    *("norm_batch", "whole_batches"),
    *("decoder_stages", "decay"),
)
"""prefixes of settings that d8cf5ae did not have; a constant that has become a setting belongs here"""

WITHOUT_EFFECT = {
    ("hsamora_mole", "fusion.order"),
    ("samora_lorahub", "fusion.order"),
    ("samora_lorahub", "fusion.residual"),
}
"""settings by run that d8cf5ae recorded although the fusion has no such option"""

REMOVED: tuple[str, ...] = ("view_count",)
"""settings that are gone; d8cf5ae had them off"""

_RUN = ("trainer", "split", "fold", "recipe", "seed", "file_ending", "scored", "held_out", "selection")


def stages_of(config: Flat) -> dict[str, Flat]:
    """Stage to flat settings, of either schema."""
    if "stages" in config:
        return {record["name"]: flatten(record["settings"]) for record in config["stages"]}
    return {stage: flatten(settings) for stage, settings in config["settings"].items() if stage != "model"}


def settings_of(config: Flat) -> dict[str, Flat]:
    """``stages_of`` beside the network (``model``) and the choices that belong to no stage (``run``)."""
    run = flatten({name: config[name] for name in _RUN})
    return {**stages_of(config), "model": flatten(config["model"]), "run": run}


def printed_settings(output: str) -> dict[str, Flat]:
    """The same of what ``--dry-run`` prints: the first JSON object in the text."""
    found = json.JSONDecoder().raw_decode(output[output.index("\n{\n") + 1 :])[0]
    if "stages" in found:
        return stages_of(found)
    return {stage: flatten(settings) for stage, settings in found.items() if stage != "model"}


def keys_of(config: Flat) -> dict[str, str]:
    """Stage to the beginning of the key that its result is stored under, of the stages that share results."""
    if "stages" in config:
        return {record["name"]: record["digest"] for record in config["stages"] if record["digest"]}
    experts = {f"expert_{level}": key for level, key in config["experts"].items()}
    teachers = {f"teacher_{level}": record["key"] for level, record in config["teachers"].items() if record["key"]}
    return {**experts, **teachers}


def flatten(value: Any, prefix: str = "") -> Flat:
    """Nested objects as dotted names, under the names of d8cf5ae."""
    return {RENAMED.get(name, name): leaf for name, leaf in _leaves(value, prefix)}


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield prefix, value
        return
    for name, inner in value.items():
        yield from _leaves(inner, f"{prefix}.{name}" if prefix else name)
