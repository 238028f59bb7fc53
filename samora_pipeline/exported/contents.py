"""What an exported model consists of: the names that may stand in it, model.json and digests.json.

    MODEL_CARD.md  LICENCES.md  CITATIONS.md  model.json  digests.json  [base.safetensors or base.pth]
    fold_K/{config.json, checkpoint_final.safetensors, [scores.json], [postprocessing.json], [base.*]}

The folder is a run folder: ``samora_predict -m FOLDER`` uses it as it is.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from samora_pipeline.contracts.postprocessing import POSTPROCESSING_FILE
from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT
from samora_pipeline.contracts.scores import EXPORTED_SCORES_FILE

MODEL_FILE = "model.json"
DIGESTS_FILE = "digests.json"
MODEL_CARD_FILE = "MODEL_CARD.md"
LICENCES_FILE = "LICENCES.md"
CITATIONS_FILE = "CITATIONS.md"

REQUIRED = (MODEL_FILE, DIGESTS_FILE, MODEL_CARD_FILE, LICENCES_FILE, CITATIONS_FILE)

_FOLD = r"fold_[A-Za-z0-9]{1,32}"
_BASE = r"base\.(?:safetensors|pth|pt)"
_FOLD_TEXTS = "|".join(map(re.escape, (CONFIG_FILE, POSTPROCESSING_FILE, EXPORTED_SCORES_FILE)))
_TEXT_NAME = re.compile("|".join((*map(re.escape, REQUIRED), rf"{_FOLD}/(?:{_FOLD_TEXTS})")))
_WEIGHTS_NAME = re.compile(rf"(?:{_FOLD}/)?{_BASE}|{_FOLD}/{re.escape(FINAL_CHECKPOINT)}")

RUN_PLACE = re.compile(r"(?P<dataset>Dataset\d{3,}_[A-Za-z0-9][\w.+-]*)/(?P<run>[A-Za-z0-9][\w.+-]*)", re.ASCII)

Kind = Literal["text", "weights"]


def kind_of(name: str) -> Kind | None:
    """Whether a name is that of a text or of weights in an exported model; None for every other name."""
    if _TEXT_NAME.fullmatch(name):
        return "text"
    return "weights" if _WEIGHTS_NAME.fullmatch(name) else None


@dataclass(frozen=True)
class SharedBase:
    """A base encoder that folds were trained on.

    ``file`` is its name in the export, empty where it is left out; ``why`` says the reason for either. ``folds`` are
    those that need it, ``licence`` is empty where nobody stated one.
    """

    name: str
    digest: str
    licence: str
    file: str
    why: str
    folds: tuple[str, ...]


@dataclass(frozen=True)
class ModelJson:
    """model.json: where the run belongs, and what is needed to use it.

    ``code`` are parts of the network that are no part of this package (``module:Class``). ``finished`` is when the last
    fold was, in seconds since the epoch. ``versions`` are those of the machine that exported it.
    """

    dataset: str
    run: str
    folds: tuple[str, ...]
    bases: tuple[SharedBase, ...]
    code: tuple[str, ...]
    warnings: tuple[str, ...]
    finished: float
    versions: dict[str, str] = field(default_factory=dict)
    schema_version: int = 2


@dataclass(frozen=True)
class FileDigest:
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class DigestsJson:
    """digests.json: every other file of the export, by name."""

    files: dict[str, FileDigest]
    schema_version: int = 1
