"""The grammar of label budgets and the seeded draw: ``10pct``, ``4cases``, ``120slices``, ``5pct_cases``, ``full``.

For one seed and fold, smaller budgets are subsets of larger ones, so that a curve over budgets adds labels and never
swaps them.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

from samora_pipeline.contracts.dataset import BudgetUnit
from samora_pipeline.contracts.splits import OFFICIAL, Selection, Splits, no_such_split, selection_key
from samora_pipeline.errors import DataError

_PERCENT = re.compile(r"^(\d+(?:\.\d+)?)pct(?:_(cases|slices))?$")
_COUNT = re.compile(r"^(\d+)(cases|slices)$")


@dataclass(frozen=True)
class Budget:
    """A parsed split name: all, a share (0-100] or a count, of cases or slices (None: the dataset's own unit)."""

    kind: Literal["full", "percent", "count"]
    amount: float
    unit: BudgetUnit | None


def parse_budget(name: str) -> Budget | None:
    """Return the budget a split name stands for, or None when it does not follow the grammar."""
    if name == "full":
        return Budget("full", 100.0, "cases")
    if match := _PERCENT.match(name):
        amount = float(match[1])
        unit: BudgetUnit | None = _unit(match[2])
        return Budget("percent", amount, unit) if 0 < amount <= 100 else None
    if match := _COUNT.match(name):
        return Budget("count", float(match[1]), _unit(match[2])) if int(match[1]) > 0 else None
    return None


def select(splits: Splits, name: str, fold: str, seed: int, slices_per_case: dict[str, int]) -> Selection:
    """Return the labelled selection called ``name``: stored, published, or drawn now (the caller stores it).

    ``slices_per_case`` lists the labelled training cases of the fold with their number of slices. A published list
    wins by name over any arithmetic; what a copy of the data lacks of it is left out.

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
        known = "".join(f", {published}" for published in splits.published)
        raise no_such_split(name, splits.dataset, known)
    unit = budget.unit or splits.budget_unit
    # The order depends on fold and seed only, never on the budget: that is what nests the subsets.
    order = random.Random(f"{splits.dataset}/{fold}/{seed}/{unit}")
    if unit == "cases":
        return _draw_cases(splits, name, fold, seed, budget, slices_per_case, order)
    return _draw_slices(splits, name, fold, seed, budget, slices_per_case, order)


def _draw_cases(
    splits: Splits, name: str, fold: str, seed: int, budget: Budget, available: dict[str, int], order: random.Random
) -> Selection:
    cases = sorted(available)
    count = _count(budget, len(cases), name, splits.dataset)
    order.shuffle(cases)
    return Selection(name, fold, "cases", seed, False, tuple(sorted(cases[:count])))


def _draw_slices(
    splits: Splits, name: str, fold: str, seed: int, budget: Budget, available: dict[str, int], order: random.Random
) -> Selection:
    pairs = [(case, index) for case in sorted(available) for index in range(available[case])]
    count = _count(budget, len(pairs), name, splits.dataset)
    order.shuffle(pairs)
    chosen: dict[str, list[int]] = {}
    for case, index in sorted(pairs[:count]):
        chosen.setdefault(case, []).append(index)
    slices = {case: tuple(indices) for case, indices in chosen.items()}
    return Selection(name, fold, "slices", seed, False, tuple(chosen), slices)


def _published(splits: Splits, name: str, seed: int, available: dict[str, int]) -> Selection:
    budget = splits.published[name]
    cases = tuple(case for case in budget.cases if case in available)
    if not cases:
        raise DataError(
            "E-SPLIT-05",
            f'none of the cases of the published split "{name}" is in {splits.dataset}',
            found=f"{len(available)} other labelled training cases",
            expected=", ".join(budget.cases[:5]),
            fix="use a drawn split such as 10pct_cases",
        )
    slices = {case: budget.slices[case] for case in cases if case in budget.slices}
    return Selection(name, OFFICIAL, budget.unit, seed, True, cases, slices)


def _count(budget: Budget, total: int, name: str, dataset: str) -> int:
    count = int(budget.amount) if budget.kind == "count" else max(1, int(total * budget.amount / 100))
    if not 0 < count <= total:
        raise DataError(
            "E-SPLIT-05",
            f'the split "{name}" asks for more labels than there are in {dataset}',
            found=f"{count} of {total}",
            expected=f"at most {total}",
            fix="use full, or a smaller budget",
        )
    return count


def _unit(text: str | None) -> BudgetUnit | None:
    if text == "cases":
        return "cases"
    return "slices" if text == "slices" else None
