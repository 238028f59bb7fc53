"""Published splits and label budgets: read from the lists that come with the package, cut to what a copy holds.

A list is kept whole in ``lists/NAME.json``. A copy of the data that lacks some of its cases uses the rest.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from dataset_conversion.file_names import counted
from dataset_conversion.survey import Part
from samora_pipeline.contracts.dataset import PublishedBudget, PublishedSplit
from samora_pipeline.contracts.json_io import read_json

_LISTS = Path(__file__).with_name("lists")
_SHOWN = 40


@dataclass(frozen=True)
class Published:
    """The lists of one dataset; ``origin`` is a sentence that says whose they are.

    ``budgets`` is keyed by the name of the split (``10pct``); its slices count along the raw through-plane axis.
    """

    origin: str
    split: PublishedSplit | None = None
    budgets: dict[str, PublishedBudget] = field(default_factory=dict)

    def part(self, case: str) -> Part:
        """``Ts`` for a case of the published test set, else ``Tr``."""
        return "Ts" if self.split is not None and case in self.split.test else "Tr"


def read_published(name: str) -> Published:
    """Read ``lists/NAME.json``."""
    return read_json(Published, _LISTS / f"{name}.json")


def limit(published: Published, present: Collection[str]) -> tuple[Published, tuple[str, ...]]:
    """Return the lists without the cases that are not ``present``, and a sentence for each list that lost some.

    A budget of which no case is left is dropped.
    """
    notes: list[str] = []

    def kept(cases: tuple[str, ...], what: str) -> tuple[str, ...]:
        missing = [case for case in cases if case not in present]
        notes.extend(counted(missing, f"of the {len(cases)} cases of {what} are missing", _SHOWN))
        return tuple(case for case in cases if case in present)

    split = published.split
    if split is not None:
        train = kept(split.train, "the published training set")
        split = PublishedSplit(train, kept(split.test, "the published test set"))
    budgets = {}
    for name, budget in published.budgets.items():
        cases = kept(budget.cases, f"the published list {name}")
        if cases:
            slices = {case: indices for case, indices in budget.slices.items() if case in cases}
            budgets[name] = replace(budget, cases=cases, slices=slices)
    return replace(published, split=split, budgets=budgets), tuple(notes)
