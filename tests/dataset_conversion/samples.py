"""A small source for each converter. One with a method ``sample(folder)`` writes its own and needs no entry here."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from dataset_conversion.converter import Converter
from tests.dataset_conversion.public_sources import make_amos, make_btcv, make_kits, make_lits, make_synapse_slices
from tests.dataset_conversion.scan_sources import make_la, make_promise12, make_unlabeled
from tests.dataset_conversion.sources import make_decathlon, make_folder, make_nnunet

# The builders serve the converters' own tests too, which need them with other layouts and faults.
BUILDERS: dict[str, Callable[[Path], Path]] = {
    "AMOS22": make_amos,
    "BTCV": make_btcv,
    "Decathlon": make_decathlon,
    "Folder": make_folder,
    "KiTS19": make_kits,
    "LA": make_la,
    "LiTS": make_lits,
    "nnUNet": make_nnunet,
    "PROMISE12": make_promise12,
    "Phantom": lambda folder: folder,
    "Synapse": make_synapse_slices,
    "Unlabeled": make_unlabeled,
}
OPTIONS: dict[str, dict[str, object]] = {
    "Folder": {"name": "Mine"},
    "Phantom": {"scans": [2, 1, 1]},
    "Unlabeled": {"name": "Pool", "channel": ["CT"]},
}


def make_sample(converter: Converter, folder: Path) -> tuple[Path, argparse.Namespace]:
    """The source and the options with which it is converted."""
    options = converter.options(**OPTIONS.get(converter.name, {}))
    if converter.name in BUILDERS:
        return BUILDERS[converter.name](folder), options
    write = getattr(converter, "sample", None)
    assert write is not None, f"{converter.name} needs an entry in BUILDERS, or a method sample(folder)"
    folder.mkdir(parents=True)
    write(folder)
    return folder, options
