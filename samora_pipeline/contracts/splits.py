"""splits.json: which cases are trained on and scored, and which keep their labels: label budgets and their seeded draw.

Budgets are written ``10pct``, ``4cases``, ``120slices``, ``5pct_cases`` or ``full``. For one seed and fold, smaller
budgets are subsets of larger ones, so that a curve over budgets adds labels and never swaps them. Another kind of
budget is one class in ``BUDGETS``; ``package.module:Class:TEXT`` is one from outside.
"""

import random
import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar, Protocol, Self

from samora_pipeline.contracts.dataset import BudgetUnit, PublishedBudget
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.registry import Registry, closest

SPLITS_FILE = "splits.json"
OFFICIAL = "official"
ALL = "all"


@dataclass(frozen=True)
class Fold:
    """Training cases and the cases that are scored; they never share a patient (except in the fold ``all``)."""

    train: tuple[str, ...]
    scored: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """The labelled part of a fold's training cases: the chosen ids themselves, not a percentage.

    ``slices`` holds, per case, indices along the stored slice axis; a case without an entry is used whole.
    """

    split: str
    fold: str
    unit: BudgetUnit
    seed: int
    published: bool
    cases: tuple[str, ...]
    slices: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Splits:
    """All folds of a dataset and every selection that was drawn or published.

    ``published`` keeps the published budgets with slice indices already mapped to the stored slice axis; they belong to
    the fold ``official``. ``selections`` is keyed by ``split/fold/seed``.
    """

    dataset: str
    seed: int
    budget_unit: BudgetUnit
    folds: dict[str, Fold]
    published: dict[str, PublishedBudget] = field(default_factory=dict)
    selections: dict[str, Selection] = field(default_factory=dict)
    schema_version: int = 1

    @property
    def default_fold(self) -> str:
        """``official`` where the dataset has a published split, else ``0``, else (a single patient) ``all``."""
        return next((name for name in (OFFICIAL, "0") if name in self.folds), ALL)

    def fold(self, name: str) -> Fold:
        """Return the fold called ``name``.

        Raises:
            UsageError: ``E-FOLD-01`` when there is none.
        """
        if name not in self.folds:
            raise UsageError("E-FOLD-01", splits=self, name=name, found=name, expected=", ".join(self.folds))
        return self.folds[name]

    def with_selection(self, selection: Selection) -> Self:
        """Return a copy that also holds ``selection``."""
        key = selection_key(selection.split, selection.fold, selection.seed)
        return replace(self, selections={**self.selections, key: selection})


def selection_key(split: str, fold: str, seed: int) -> str:
    """The key of a selection in splits.json."""
    return f"{split}/{fold}/{seed}"


Choice = dict[str, tuple[int, ...] | None]
"""The chosen cases, each with the indices of its chosen slices (None: the whole case)."""


@dataclass(frozen=True)
class Draw:
    """What a budget chooses from: the labelled training cases of a fold with their numbers of slices.

    ``unit`` is the dataset's own. ``seed`` (dataset, fold and seed of the run) does not depend on the budget: that is
    what nests the subsets. ``blank`` are slices without any label, by case, which are never drawn.
    """

    dataset: str
    split: str
    slices_per_case: dict[str, int]
    unit: BudgetUnit
    seed: str
    blank: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def total(self, unit: BudgetUnit) -> int:
        """The number of cases or of slices."""
        return len(self.slices_per_case) if unit == "cases" else sum(len(self._slices(c)) for c in self.slices_per_case)

    def _slices(self, case: str) -> tuple[int, ...]:
        blank = frozenset(self.blank.get(case, ()))
        return tuple(index for index in range(self.slices_per_case[case]) if index not in blank)

    def take(self, count: int, unit: BudgetUnit) -> Choice:
        """Draw ``count`` cases or slices.

        Raises:
            DataError: ``E-SPLIT-05`` nothing or more than there are.
        """
        if not 0 < count <= self.total(unit):
            raise DataError(
                "E-SPLIT-05",
                what=f'the split "{self.split}" asks for more labels than there are in {self.dataset}',
                found=f"{count} of {self.total(unit)}",
                expected=f"at most {self.total(unit)}",
                fix="use full, or a smaller budget",
            )
        order, cases = random.Random(f"{self.seed}/{unit}"), sorted(self.slices_per_case)
        if unit == "cases":
            order.shuffle(cases)
            return {case: self._slices(case) if self.blank.get(case) else None for case in sorted(cases[:count])}
        pairs = [(case, index) for case in cases for index in self._slices(case)]
        order.shuffle(pairs)
        chosen: dict[str, list[int]] = {}
        for case, index in sorted(pairs[:count]):
            chosen.setdefault(case, []).append(index)
        return {case: tuple(indices) for case, indices in chosen.items()}


class Budget(Protocol):
    """A kind of label budget.

    ``forms`` shows how its splits are written. ``relative``: whether a fold with other cases has another number of
    labels, so that a drawn selection no longer holds.
    """

    forms: ClassVar[str]
    relative: ClassVar[bool]

    @classmethod
    @abstractmethod
    def read(cls, text: str) -> Self | None:
        """The budget that a split's name stands for, or None when it is of another kind."""

    @abstractmethod
    def choose(self, draw: Draw) -> Choice:
        """Choose cases or slices; the same ``draw`` always gives the same choice."""


BUDGETS: Registry[type[Budget]] = Registry("split")
_UNITS: dict[str, BudgetUnit] = {"cases": "cases", "slices": "slices"}


@BUDGETS.register("full")
@dataclass(frozen=True)
class Full(Budget):
    """All labelled cases."""

    forms = "full"
    relative = True

    @classmethod
    def read(cls, text: str) -> Self | None:
        """``full``."""
        return cls() if text == "full" else None

    def choose(self, draw: Draw) -> Choice:
        """Every case, whole."""
        return draw.take(draw.total("cases"), "cases")


@BUDGETS.register("pct")
@dataclass(frozen=True)
class Share(Budget):
    """A share in percent (0-100] of cases or slices; ``unit`` None is the dataset's own."""

    forms = "<x>pct, <x>pct_cases, <x>pct_slices"
    relative = True
    percent: float
    unit: BudgetUnit | None = None

    @classmethod
    def read(cls, text: str) -> Self | None:
        """``10pct``, ``7.5pct_cases``."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)pct(?:_(cases|slices))?", text)
        return cls(float(match[1]), _UNITS.get(match[2] or "")) if match and 0 < float(match[1]) <= 100 else None

    def choose(self, draw: Draw) -> Choice:
        """At least one, rounded down."""
        unit = self.unit or draw.unit
        return draw.take(max(1, int(draw.total(unit) * self.percent / 100)), unit)


@BUDGETS.register("count")
@dataclass(frozen=True)
class Count(Budget):
    """A number of cases or slices."""

    forms = "<n>cases, <n>slices"
    relative = False
    count: int
    unit: BudgetUnit

    @classmethod
    def read(cls, text: str) -> Self | None:
        """``4cases``, ``120slices``."""
        match = re.fullmatch(r"(\d+)(cases|slices)", text)
        return cls(int(match[1]), _UNITS[match[2]]) if match and int(match[1]) > 0 else None

    def choose(self, draw: Draw) -> Choice:
        """So many."""
        return draw.take(self.count, self.unit)


def parse_budget(name: str) -> Budget | None:
    """Return the budget a split name stands for, or None when no kind of budget reads it.

    Raises:
        UsageError: ``E-NAME-01`` for a ``package.module:Class`` that cannot be imported.
    """
    if ":" in name:
        module, _, rest = name.partition(":")
        kind, _, text = rest.partition(":")
        return BUDGETS.get(f"{module}:{kind}").read(text)
    return next((budget for kind in BUDGETS.names() if (budget := BUDGETS.get(kind).read(name)) is not None), None)


def select(
    splits: Splits,
    name: str,
    fold: str,
    seed: int,
    slices_per_case: dict[str, int],
    blank: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> Selection:
    """Return the labelled selection called ``name``: stored, published, or drawn now (the caller stores it).

    ``slices_per_case`` lists the labelled training cases of the fold with their number of slices, ``blank`` their
    slices without any label. A published list wins by name over any arithmetic; what a copy of the data lacks of it is
    left out.

    Raises:
        DataError: ``E-SPLIT-04`` no such split; ``E-SPLIT-05`` nothing or too much asked for.
    """
    stored = splits.selections.get(selection_key(name, fold, seed))
    if stored is not None:
        return stored
    if fold == OFFICIAL and name in splits.published:
        return _published(splits, name, seed, slices_per_case)
    budget = parse_budget(name)
    if budget is None:
        raise _no_split(splits, name)
    draw = Draw(splits.dataset, name, slices_per_case, splits.budget_unit, f"{splits.dataset}/{fold}/{seed}", blank)
    choice = budget.choose(draw)
    slices = {case: indices for case, indices in choice.items() if indices is not None}
    return Selection(name, fold, "slices" if slices else "cases", seed, False, tuple(choice), slices)


def check_split(splits: Splits, name: str) -> None:
    """Refuse a name that stands for no split of any fold, without looking at a case (``E-SPLIT-04``)."""
    known = {*splits.published, *(selection.split for selection in splits.selections.values())}
    if name not in known and parse_budget(name) is None:
        raise _no_split(splits, name)


def _no_split(splits: Splits, name: str) -> DataError:
    forms = ", ".join([*(BUDGETS.get(kind).forms for kind in BUDGETS.names()), *splits.published])
    typo = (name, _meant(name, splits))
    return DataError("E-SPLIT-04", name=name, splits=splits, found=name, expected=forms, typo=typo)


def _meant(name: str, splits: Splits) -> str:
    """The split that a mistyped one was probably meant for: ``10%``, ``0.1``, ``4 case``; else ten percent."""
    match = re.match(r"(\d+(?:\.\d+)?)\s*(.*)", name)
    if match is None:
        return closest(name, [*splits.published, "full"]) or "10pct"
    number, rest = float(match[1]), match[2].lower()
    for unit in _UNITS:
        if rest.startswith(unit[:3]):
            return f"{max(1, int(number))}{unit}"
    percent = number if rest.startswith(("%", "p")) else 100 * number if 0 < number < 1 else 0
    return f"{percent:g}pct" if 0 < percent <= 100 else "10pct"


def _published(splits: Splits, name: str, seed: int, available: dict[str, int]) -> Selection:
    budget = splits.published[name]
    cases = tuple(case for case in budget.cases if case in available)
    if not cases:
        raise DataError(
            "E-SPLIT-05",
            what=f'none of the cases of the published split "{name}" is in {splits.dataset}',
            found=f"{len(available)} other labelled training cases",
            expected=", ".join(budget.cases[:5]),
            fix="use a drawn split such as 10pct_cases",
        )
    slices = {case: budget.slices[case] for case in cases if case in budget.slices}
    return Selection(name, OFFICIAL, budget.unit, seed, True, cases, slices)
