"""postprocessing.json of a fold folder: labels that keep only their largest component, and the scores behind it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from samora_pipeline.contracts.json_io import is_edited, read_json
from samora_pipeline.errors import DataError

POSTPROCESSING_FILE = "postprocessing.json"


@dataclass(frozen=True)
class Step:
    """One trial: of the voxels that carry one of ``values`` only the largest component stays.

    ``before`` and ``after`` are the mean Dice per label over the held-out cases (labels that none of them shows are
    left out). A step is ``kept`` when the mean over the labels rises and no label falls; the next one is then tried on
    its result.
    """

    name: str
    values: tuple[int, ...]
    kept: bool
    before: dict[str, float]
    after: dict[str, float]


@dataclass(frozen=True)
class PostProcessing:
    """The trials in their order. ``held_out`` are the labelled training cases that they were scored on.

    ``digest`` covers this record itself (empty: written by an earlier version).
    """

    held_out: tuple[str, ...]
    steps: tuple[Step, ...]
    digest: str = ""
    schema_version: int = 1

    @property
    def kept(self) -> tuple[Step, ...]:
        """The steps that are applied, in their order."""
        return tuple(step for step in self.steps if step.kept)


def read_postprocessing(path: Path) -> PostProcessing:
    """Read a postprocessing.json.

    Raises:
        DataError: ``E-RUN-07`` it was changed after it was written, ``E-JSON-..`` it cannot be read.
    """
    record = read_json(PostProcessing, path)
    if is_edited(record):
        raise DataError("E-RUN-07", path=path, found=str(path))
    return record


def read_steps(folds: Iterable[Path]) -> tuple[Step, ...]:
    """The steps that every one of the fold folders kept, in the order of the first; a fold without a file kept none."""
    kept = [
        read_postprocessing(fold / POSTPROCESSING_FILE).kept if (fold / POSTPROCESSING_FILE).is_file() else ()
        for fold in folds
    ]
    if not kept:
        return ()
    agreed = set.intersection(*({(step.name, step.values) for step in steps} for steps in kept))
    return tuple(step for step in kept[0] if (step.name, step.values) in agreed)
