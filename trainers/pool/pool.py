"""The unlabelled pool of stage 1, and the promise that no scored scan is in it, under no name.

Fed-MENU (DIAL-RPI/Fed-MENU), which the paper names for its unlabelled CT, brings scans into LPS orientation, resamples
the axes that are finer than 0.8 x 0.8 x 1.5 mm to that (never the coarser ones), and scales HU from [-200, 400] to
[0, 1]. Here the store's axial slices are in that orientation already; in the plane, slices are shrunk and padded;
across it, the slices nearest to steps of 1.5 mm are taken instead of interpolated ones. What is not CT keeps the
intensity rule of its own plan: percentiles for MR.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from samora_pipeline import distributed
from samora_pipeline.contracts.plans import IntensityRule, Planned, Plans
from samora_pipeline.contracts.pool import PoolIntensity, PoolManifest
from samora_pipeline.contracts.run import PoolRecord
from samora_pipeline.contracts.splits import Selection
from samora_pipeline.errors import DataError, SamoraError
from samora_pipeline.files import digest_json
from samora_pipeline.registry import shortened
from samora_pipeline.slices.datasets import DEFAULT_MEMORY, JoinedSource, SliceId, SliceSource, UnlabelledSource
from samora_pipeline.slices.pool import choice_rule, thinned
from trainers.pool.candidates import Candidates, LeakReport, names
from trainers.pool.datasets import PoolSettings, PreparedDataset, preprocessing

FED_MENU_WINDOW = (-200.0, 400.0)
"""HU"""
FED_MENU_SPACING = 0.8
"""mm in the plane"""
FED_MENU_STEP = 1.5
"""mm across it"""

_WHY = "Fed-MENU"


_KEY_LENGTH = 12


def pool_plans(dataset: PreparedDataset, own: Plans, intensity: PoolIntensity) -> Plans:
    """The plan by which a dataset's slices come into a pool: its own, at the sizes of the run's dataset ``own``."""
    plans = replace(dataset.plans, slice_size=own.slice_size, input_size=own.input_size)
    if intensity == "plan":
        return plans
    window = IntensityRule("window", *FED_MENU_WINDOW)
    rules = tuple(
        window if name.strip().lower() == "ct" else rule
        for name, rule in zip(plans.channel_names, plans.intensity.value, strict=True)
    )
    return replace(
        plans,
        in_plane=Planned("shrink_and_pad", _WHY),
        in_plane_spacing=Planned(FED_MENU_SPACING if dataset.raw.ours.spacing_known else None, _WHY),
        intensity=Planned(rules, _WHY),
    )


@dataclass(frozen=True)
class PoolMember:
    """One dataset of a pool: its cases, the plan by which they are read, and what finer slices are thinned to (mm)."""

    dataset: PreparedDataset
    cases: tuple[str, ...]
    plans: Plans
    step: float | None

    @cached_property
    def slices(self) -> int:
        """Slices to choose from, those that show only air included."""
        records = [self.dataset.cases[case] for case in self.cases]
        return sum(len(thinned(record.shape[0], record.geometry.spacing[0], self.step)) for record in records)


@dataclass(frozen=True)
class Pool:
    """Cases of several datasets, by reference, and the rule by which slices are chosen from them.

    ``candidates`` also tells which cases are not in it and why. ``forbidden`` are names that must not be in it.
    ``folder`` is where manifests lie, ``input_size`` that of the run in pixels. Images hold ``neighbours`` too.
    """

    members: tuple[PoolMember, ...]
    candidates: Candidates
    settings: PoolSettings
    seed: int
    record: PoolRecord
    forbidden: frozenset[str]
    folder: Path
    input_size: int
    neighbours: int = 0

    @property
    def stored(self) -> int:
        """Slices to choose from, those that show only air included."""
        return sum(member.slices for member in self.members)

    @property
    def slices(self) -> int:
        """The most slices that can be learned from: air is found only when the slices are read."""
        return min(self.stored, self.settings.slices or self.stored)

    @property
    def file(self) -> Path:
        """Where the manifest lies."""
        return self.folder / f"{self.record.key}.json"

    def check(self) -> None:
        """Make sure, right before the first step, that nothing forbidden is in the pool.

        Raises:
            SamoraError: ``E-POOL-02``, a fault of ours.
        """
        inside = self.forbidden & {
            self.candidates.label(member.dataset, case) for member in self.members for case in member.cases
        }
        if inside:
            raise SamoraError("E-POOL-02", found=shortened(sorted(inside)))

    def source(self, manifest: PoolManifest, without: Selection | None = None) -> UnlabelledSource:
        """The chosen slices, at the input size of the run's own plan; without those of the run's own that are labelled.

        Raises:
            DataError: ``E-POOL-09`` all of them are labelled.
        """
        # Every rank and every dataset keeps slices of its own, perhaps all in one machine's memory.
        memory = DEFAULT_MEMORY // (len(self.members) * distributed.world_size())
        sources = []
        for member in self.members:
            cases = manifest.datasets[member.dataset.name].cases
            ids = [SliceId(case, index) for case in sorted(cases) for index in cases[case].slices]
            if without is not None and member.dataset.name == self.candidates.own.name:
                ids = [name for name in ids if not _is_labelled(name, without)]
            if ids:
                own = member.dataset.slices, ids, member.plans, self.input_size
                sources.append(SliceSource(*own, neighbours=self.neighbours, memory=memory))
        if not sources:
            raise DataError("E-POOL-09", found=f"{manifest.slices} slices, and all of them are labelled")
        return sources[0] if len(sources) == 1 else JoinedSource(sources)


def _is_labelled(name: SliceId, selection: Selection) -> bool:
    """Whether a selection has the slice; of its cases without a list of slices it has all."""
    if name.case not in selection.cases:
        return False
    return name.case not in selection.slices or name.index in selection.slices[name.case]


def make_pool(
    candidates: Candidates,
    settings: PoolSettings,
    leaks: LeakReport,
    scored: frozenset[str],
    seed: int,
    folder: Path,
    *,
    input_size: int,
    neighbours: int = 0,
    transductive: bool,
) -> Pool:
    """Make a pool of the candidates that are no leak to be taken out and no copy of one another.

    Raises:
        DataError: ``E-POOL-01`` datasets with other channels than the run's own, ``E-POOL-03`` nothing is left,
            ``E-POOL-06`` fewer slices than were asked for.
    """
    candidates = candidates.without(names(leaks.excluded), "a leak")
    copies = candidates.copies()
    candidates = candidates.without(copies, "a copy")
    members = tuple(
        PoolMember(
            dataset,
            candidates.cases(dataset),
            pool_plans(dataset, candidates.own.plans, settings.intensity),
            FED_MENU_STEP if settings.intensity == "fed_menu" and dataset.raw.ours.spacing_known else None,
        )
        for dataset in candidates.datasets
    )
    _require_channels(candidates.own, members)
    hidden = frozenset() if transductive else scored | candidates.labels("scored", "of a scored patient")
    excluded = tuple(sorted(hidden.union(names(leaks.excluded))))
    record = PoolRecord(
        cases={member.dataset.name: member.cases for member in members},
        excluded=excluded,
        transductive=transductive,
        copies=tuple(sorted(copies)),
        slices=settings.slices,
        intensity=settings.intensity,
        missing=candidates.missing,
        key=digest_json(_identity(members, settings, seed, excluded))[:_KEY_LENGTH],
    )
    forbidden = frozenset((*excluded, *names(leaks.unsettled)))
    pool = Pool(members, candidates, settings, seed, record, forbidden, folder, input_size, neighbours)
    if not any(member.cases for member in members):
        left_out = sum(reason is not None for reasons in candidates.reasons.values() for reason in reasons.values())
        found = f"no training or unlabelled scans besides {left_out} that must stay out"
        raise DataError("E-POOL-03", found=found)
    require_number(settings, pool.stored, "are stored")
    return pool


def require_number(settings: PoolSettings, slices: int, what: str) -> None:
    """Refuse a pool of fewer slices than were asked for, unless it need not be complete.

    Raises:
        DataError: ``E-POOL-06``.
    """
    if settings.complete and settings.slices is not None and slices < settings.slices:
        raise DataError("E-POOL-06", settings=settings, slices=slices, found=f"{slices:,} slices {what}")


def _identity(
    members: Sequence[PoolMember], settings: PoolSettings, seed: int, excluded: Sequence[str]
) -> dict[str, Any]:
    """Content and preprocessing of every case, what was kept out, the number of slices, and the seed of the choice."""
    return {
        "cases": {
            member.dataset.name: {case: member.dataset.cases[case].source_digest for case in member.cases}
            for member in members
        },
        "preprocessing": {
            member.dataset.name: {**preprocessing(member.plans), "step": member.step} for member in members
        },
        "excluded": list(excluded),
        "slices": settings.slices,
        "rule": choice_rule(),
        "seed": seed,
    }


def _require_channels(own: PreparedDataset, members: Sequence[PoolMember]) -> None:
    count = len(own.plans.channel_names)
    others = [member.dataset for member in members if len(member.plans.channel_names) != count]
    if others:
        raise DataError(
            "E-POOL-01",
            found="; ".join(f"{dataset.name}: {', '.join(dataset.plans.channel_names)}" for dataset in others),
            expected=f"{count} channels, as {own.name} has ({', '.join(own.plans.channel_names)})",
            fix="leave them out of --unlabeled",
        )
