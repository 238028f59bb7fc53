"""Which converters there are, and which of them a ``-d`` means; only the one that is needed is imported.

Home numbers below 100 belong to converters: docs/datasets.md lists the free ones, a test refuses one given twice.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from samora_pipeline.errors import UsageError
from samora_pipeline.registry import Registry

if TYPE_CHECKING:
    from dataset_conversion.converter import Converter

CONVERTERS: Registry[Callable[[], Converter]] = Registry("converter")
# Names of folders that say by themselves which converter reads them.
_CLAIMED = {r"Task\d\d_[A-Za-z0-9]+": "Decathlon", r"Dataset\d{3,}_.+": "nnUNet"}


def _make(module: str, name: str) -> Converter:
    converter: Converter = getattr(importlib.import_module(f"dataset_conversion.datasets.{module}"), name)()
    return converter


for _name, _path in {
    "AMOS22": "amos22:AMOS22",
    "BTCV": "btcv:BTCV",
    "Decathlon": "decathlon:Decathlon",
    "Folder": "folder:Folder",
    "KiTS19": "kits19:KiTS19",
    "LA": "la:LA",
    "LiTS": "lits:LiTS",
    "nnUNet": "nnunet:NNUNet",
    "Phantom": "phantom:Phantom",
    "PROMISE12": "promise12:PROMISE12",
    "Synapse": "synapse:Synapse",
    "Unlabeled": "unlabeled:Unlabeled",
}.items():
    CONVERTERS.register(_name)(partial(_make, *_path.split(":")))


def find_converter(token: str) -> Converter:
    """The converter of that name or at ``package.module:Class``, or the one that folders called ``token`` belong to.

    Raises:
        UsageError: ``E-NAME-01`` with the nearest name.
    """
    claimed = (name for pattern, name in _CLAIMED.items() if re.fullmatch(pattern, token))
    try:
        return CONVERTERS.get(next(claimed, token))()
    except UsageError as error:
        if error.code == "E-NAME-01" and ":" not in token:
            error.fix = (
                f"samora_convert IMAGES LABELS --name {token}  takes any scans; -d list  shows the known sources"
            )
        raise


def load_converters() -> list[Converter]:
    """One converter of each kind, by name."""
    return [CONVERTERS.get(name)() for name in CONVERTERS.names()]
