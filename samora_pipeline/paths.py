"""Where things lie: SAMORA_ROOT and the four folders below it, read late so that importing has no side effect."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from samora_pipeline.errors import DataError
from samora_pipeline.registry import shortened, suggestion

DEFAULT_ROOT = Path("samora_data")
_DATASET_FOLDER = re.compile(r"^Dataset(\d{3,})_(.+)$")


@dataclass(frozen=True)
class DatasetFolder:
    """One dataset's number, name and raw folder."""

    number: int
    name: str
    raw: Path

    @property
    def folder_name(self) -> str:
        """``DatasetNNN_Name``, the same under raw, preprocessed and results."""
        return f"Dataset{self.number:03d}_{self.name}"


@dataclass(frozen=True)
class Roots:
    """The folders of one installation. ``origin`` says where the root's value came from, for messages."""

    root: Path
    raw: Path
    preprocessed: Path
    results: Path
    weights: Path
    origin: str

    def dataset(self, token: str) -> DatasetFolder:
        """Find a dataset under ``raw`` by number (1, 001), name (Synapse), folder name or path.

        Raises:
            DataError: ``E-NAME-02`` when there is none, with the nearest name and all that are present.
        """
        present = self.datasets()
        for folder in present:
            if token in (folder.name, folder.folder_name) or (token.isdigit() and int(token) == folder.number):
                return folder
        as_path = Path(token)
        match = _DATASET_FOLDER.match(as_path.resolve().name)
        if match and as_path.is_dir():
            return DatasetFolder(int(match[1]), match[2], as_path.resolve())
        found = shortened(folder.folder_name for folder in present) or "no dataset at all"
        near = suggestion(token, [folder.name for folder in present])["typo"]
        hint = f"did you mean {near[1]}? " if near else ""
        raise DataError("E-NAME-02", token=token, folder=self.raw, nearest=hint, found=found, typo=near)

    def datasets(self) -> list[DatasetFolder]:
        """All datasets under ``raw``, by number."""
        entries = [(_DATASET_FOLDER.match(entry.name), entry) for entry in self.raw.glob("*") if entry.is_dir()]
        found = (DatasetFolder(int(match[1]), match[2], entry) for match, entry in entries if match)
        return sorted(found, key=lambda folder: folder.number)


def resolve_roots(root: str | None) -> Roots:
    """Return the folders: ``--root`` wins over SAMORA_ROOT, which wins over ./samora_data.

    SAMORA_RAW, SAMORA_PREPROCESSED, SAMORA_RESULTS and SAMORA_WEIGHTS override singly.
    """
    if root is not None:
        base, origin = Path(root), "--root"
    elif environment := os.environ.get("SAMORA_ROOT", "").strip():
        base, origin = Path(environment), "SAMORA_ROOT"
    else:
        base, origin = DEFAULT_ROOT, "default"
    base = base.expanduser()

    def below(name: str) -> Path:
        override = os.environ.get(f"SAMORA_{name.upper()}", "").strip()
        return Path(override).expanduser() if override else base / name

    return Roots(base, below("raw"), below("preprocessed"), below("results"), below("weights"), origin)
