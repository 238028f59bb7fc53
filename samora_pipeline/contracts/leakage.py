"""Data leakage: training or pool scans that duplicate, or share a patient with, validation or test scans.

Two scans count as the same when their voxel digests are equal (``imaging.volume``). That proves sameness; a copy
that was resampled, cropped or clipped has another digest and is not found.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from samora_pipeline.contracts.fingerprint import CaseFingerprint
from samora_pipeline.contracts.splits import OFFICIAL, Fold, Splits

Cases = Mapping[str, CaseFingerprint]


@dataclass(frozen=True)
class Leak:
    """``case`` (of another dataset: ``DatasetNNN_Name/CASE``) shows the scan or the patient of the case ``scored``.

    ``place``: ``training`` when the case has labels that the fold trains on, else ``pool``.
    """

    case: str
    scored: str
    reason: Literal["voxels", "patient"]
    place: Literal["training", "pool"]

    @property
    def text(self) -> str:
        """The leak in a few words."""
        same = "same voxels as" if self.reason == "voxels" else "same patient as"
        return f"{self.case}: {same} {self.scored}"


def scored_names(splits: Splits, fold: Fold) -> frozenset[str]:
    """Cases that a run of the fold is scored on, and those of the published test set, which no run may see.

    Cases that the fold also trains on are not among them (the fold ``all`` is scored on its own training cases).
    """
    published = splits.folds[OFFICIAL].scored if OFFICIAL in splits.folds else ()
    return frozenset((*fold.scored, *published)) - frozenset(fold.train)


def protected_names(splits: Splits, fold: Fold, cases: Cases) -> frozenset[str]:
    """``scored_names`` and every test case: what nothing may be learned from, under no name."""
    tests = {name for name, case in cases.items() if case.subset == "test"}
    return scored_names(splits, fold) | (tests - frozenset(fold.train))


def voxel_index(cases: Cases, names: Iterable[str]) -> dict[str, str]:
    """Which of the named cases has which voxel digest, the first one by name; names that are not there are left out.

    A channel of one value throughout shows nothing and has no place in the index.
    """
    index: dict[str, str] = {}
    for name in sorted(set(names) & set(cases)):
        for digest in telling_digests(cases[name]):
            index.setdefault(digest, name)
    return index


def telling_digests(case: CaseFingerprint) -> tuple[str, ...]:
    """The voxel digests of the channels of a case that are not constant."""
    channels = zip(case.voxel_digests, case.volume, strict=True)
    return tuple(digest for digest, stats in channels if stats.minimum < stats.maximum)


def copy_of(case: CaseFingerprint, index: Mapping[str, str]) -> str | None:
    """The indexed case that shares a channel with ``case``, or None."""
    return next((index[digest] for digest in telling_digests(case) if digest in index), None)


def training_leaks(
    train: Iterable[str], protected: frozenset[str], cases: Cases, patient: Callable[[str], str]
) -> tuple[Leak, ...]:
    """Training cases of a fold that show the scan or the patient of a protected case."""
    index = voxel_index(cases, protected)
    patients = {patient(name): name for name in sorted(protected, reverse=True)}
    leaks = []
    for name in sorted(set(train) & set(cases)):
        if (other := copy_of(cases[name], index)) is not None:
            leaks.append(Leak(name, other, "voxels", "training"))
        elif patient(name) in patients:
            leaks.append(Leak(name, patients[patient(name)], "patient", "training"))
    return tuple(leaks)


def copies(cases: Cases) -> list[tuple[str, ...]]:
    """Groups of cases of one dataset that share a scan."""
    by_digest: dict[str, list[str]] = {}
    for name, case in cases.items():
        for digest in telling_digests(case):
            by_digest.setdefault(digest, []).append(name)
    return list(dict.fromkeys(tuple(dict.fromkeys(names)) for names in by_digest.values() if len(set(names)) > 1))


def groups(cases: Cases, names: Iterable[str], patient: Callable[[str], str]) -> dict[str, str]:
    """For each named case the name of its group: its patient, patients with a scan in common being one.

    Cases that share a scan are one patient, whatever they are called, so that no fold has them on both sides.
    """
    wanted = sorted(names)
    group = {name: patient(name) for name in wanted}
    for shared in copies({name: cases[name] for name in wanted}):
        joined = {group[name] for name in shared}
        first = min(joined)
        group = {name: first if own in joined else own for name, own in group.items()}
    return group
