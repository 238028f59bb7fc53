"""The one way in which a config.json is read: what it names as code is accepted only where the user allows that.

A config.json may come from anywhere, and a name such as ``package.module:Class`` in it decides what is imported when
the network is built. Names that are typed in a command or passed in Python are trusted; names in a file are not.
"""

import math
from pathlib import Path
from typing import Any

from samora_pipeline.contracts.json_io import parse, read_object
from samora_pipeline.contracts.labels import BACKGROUND, IGNORE, label_scheme
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.errors import DataError
from samora_pipeline.registry import is_code_name

LARGEST_SIDE = 4096
"""pixels along a side of a network's input, or of a slice: four times what SAM was made for"""
LARGEST_VOLUME = 512**3
"""voxels of an input of a network on whole volumes"""
LARGEST_RANK = 1024
"""of LoRA; the widest layers have 1280 columns"""
_MOST_NEIGHBOURS = 64
_DEEPEST = 50


def read_run_config(path: Path, *, allow_code: bool = False) -> RunConfig:
    """Read a config.json; nothing that it names is imported here.

    Args:
        path: the file.
        allow_code: accept a file that names code. Commands that only show names, and build nothing, may set it.

    Raises:
        DataError: ``E-CODE-01`` code is named and not allowed, ``E-JSON-..`` a file of another form, ``E-RUN-05``
            sizes that contradict each other, or that no model has.
    """
    return parse_run_config(read_object(path), path, allow_code=allow_code)


def parse_run_config(plain: Any, path: Path, *, allow_code: bool = False) -> RunConfig:
    """As ``read_run_config``, from the plain values of the JSON; ``path`` is only named in errors."""
    code = named_code(plain)
    if code and not allow_code:
        raise DataError("E-CODE-01", path=path, found=f"{', '.join(code)} in {path}")
    if _depth(plain) > _DEEPEST:
        # Whoever walks through it later would run out of stack.
        raise DataError("E-JSON-02", path=path, found=f"values within values, more than {_DEEPEST} deep, in {path}")
    config = parse(RunConfig, plain, str(path))
    if fault := _fault(config):
        raise DataError("E-RUN-05", path=path, found=f"{fault} in {path}")
    return config


def _depth(plain: Any) -> int:
    """How deep lists and objects lie within each other."""
    depth, level = 0, [plain]
    while level := [value for value in level if isinstance(value, dict | list)]:
        level = [inner for value in level for inner in (value.values() if isinstance(value, dict) else value)]
        depth += 1
    return depth


def _fault(config: RunConfig) -> str:
    """What is wrong with the sizes and labels of a config, before anything is made that large; empty when nothing."""
    model, plans, labels = config.model, config.plans, config.labels
    own: dict[str, int | tuple[int, ...]] = {
        BACKGROUND: 0,
        **labels.names,
        **({IGNORE: labels.ignore} if labels.ignore is not None else {}),
    }
    try:
        label_scheme(own, labels.region_order)
    except DataError as error:
        return f"{error.what} ({error.found[:200]})"
    spacing, rules, channels = plans.in_plane_spacing.value, len(plans.intensity.value), len(plans.channel_names)
    side, seen = plans.slice_size.value or model.input_size, channels * (2 * model.neighbours + 1)
    volume = model.volume or (1,)
    checks = (
        (0 < model.input_size <= LARGEST_SIDE, f"input_size {model.input_size}, of at most {LARGEST_SIDE}"),
        (
            min(volume) > 0 and math.prod(volume) <= LARGEST_VOLUME,
            f"volume {volume}, of at most {LARGEST_VOLUME:,} voxels",
        ),
        (0 < side <= LARGEST_SIDE, f"slice_size {side}, of at most {LARGEST_SIDE}"),
        (0 <= model.lora_rank <= LARGEST_RANK, f"lora_rank {model.lora_rank}, of at most {LARGEST_RANK}"),
        (model.num_outputs == labels.num_outputs, f"{model.num_outputs} outputs for {labels.num_outputs} labels"),
        (0 <= model.neighbours <= _MOST_NEIGHBOURS, f"{model.neighbours} neighbours, of at most {_MOST_NEIGHBOURS}"),
        (model.in_channels == seen, f"{model.in_channels} channels of the network, {seen} of the plan"),
        (0 < channels == rules, f"{channels} channels and {rules} rules for their intensities"),
        (spacing is None or spacing > 0, f"in_plane_spacing {spacing}"),
    )
    return next((text for holds, text in checks if not holds), "")


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
