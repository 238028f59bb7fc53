"""splits.json: which cases are trained on and scored, and which of them keep their labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from samora_pipeline.contracts.dataset import BudgetUnit, PublishedBudget
from samora_pipeline.errors import UsageError

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
            raise UsageError(
                "E-FOLD-01",
                dataset=self.dataset,
                name=name,
                default_fold=self.default_fold,
                found=name,
                expected=", ".join(self.folds),
            )
        return self.folds[name]

    def with_selection(self, selection: Selection) -> Splits:
        """Return a copy that also holds ``selection``."""
        key = selection_key(selection.split, selection.fold, selection.seed)
        return replace(self, selections={**self.selections, key: selection})


def selection_key(split: str, fold: str, seed: int) -> str:
    """The key of a selection in splits.json."""
    return f"{split}/{fold}/{seed}"
