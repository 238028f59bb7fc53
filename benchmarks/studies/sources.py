"""The datasets of the study: how they are converted, on which fold they are scored, and at which label budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from samora_pipeline.contracts.dataset import PublishedSplit, read_dataset, write_dataset
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.paths import Roots
from samora_pipeline.registry import nearest


@dataclass(frozen=True)
class StudySource:
    """One dataset.

    ``converter`` is that of ``samora_convert``. The first of ``budgets`` is where all variants are compared. ``train``:
    the labelled scans that are trained on where a copy lacks the published test scans; all others are held out.
    """

    name: str
    converter: str
    fold: str
    budgets: tuple[str, ...]
    train: tuple[str, ...] = ()


SOURCES: dict[str, StudySource] = {
    source.name: source
    for source in (
        StudySource("LA", "LA", "official", ("5pct", "2cases", "8cases", "16cases", "full")),
        # Its ten published test scans may be missing from a copy: then the three published labelled scans are trained
        # on and all other labelled ones are scored, which no published table does.
        StudySource("PROMISE12", "PROMISE12", "official", ("7.5pct",), ("Case29", "Case14", "Case05")),
        StudySource("OpenKBP", "nnUNet", "0", ("4cases", "2cases", "8cases", "16cases", "full")),
    )
}


def find_source(name: str, budgets: Sequence[str]) -> StudySource:
    """Return the dataset of that name, or one of the user's own, which has to be converted already.

    Raises:
        UsageError: ``E-STUDY-02`` for a dataset of one's own without label budgets.
    """
    known = SOURCES.get(name)
    if known is None and not budgets:
        raise UsageError(
            "E-STUDY-02",
            f'the study knows no label budgets for the dataset "{name}"',
            found=name,
            expected=f"{nearest(name, list(SOURCES))}{', '.join(SOURCES)}, or --budgets",
            fix=f"--dataset {name} --budgets 4cases 8cases",
        )
    found = known or StudySource(name, "", "", tuple(budgets))
    return replace(found, budgets=tuple(budgets)) if budgets else found


def hold_out(source: StudySource, roots: Roots) -> None:
    """Give a copy without the published test scans a split of its own: ``source.train`` against all others.

    Raises:
        DataError: ``E-STUDY-03`` when scans to train on are missing.
    """
    place = roots.dataset(source.name)
    raw = read_dataset(place.raw)
    labelled = {name for name, case in (raw.training() | raw.test()).items() if case.label is not None}
    missing = [case for case in source.train if case not in labelled]
    if missing:
        raise DataError(
            "E-STUDY-03",
            f"labelled scans of the study are missing from {place.folder_name}",
            found=f"no {', '.join(missing)}",
            expected=", ".join(source.train),
        )
    if raw.ours.published_split is not None and raw.ours.published_split.test:
        return
    others = tuple(sorted(labelled - set(source.train)))
    origin = f"{raw.ours.origin}; study: {len(others)} labelled scans held out, not the published test set"
    ours = replace(raw.ours, origin=origin, published_split=PublishedSplit(source.train, others))
    write_dataset(place.raw, raw.description, ours)


def raw_folder(source: StudySource, roots: Roots) -> Path | None:
    """The converted dataset, where there is one."""
    named = [folder for folder in roots.datasets() if source.name in (folder.name, folder.folder_name)]
    return named[0].raw if named else None
