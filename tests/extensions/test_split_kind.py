"""A kind of split from outside the repository: one class, drawn and kept."""

from dataclasses import replace
from pathlib import Path

import pytest

from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.contracts.splits import BUDGETS, Draw, Fold, Splits, parse_budget, select
from samora_pipeline.errors import DataError

CASES = {"a": 10, "b": 7, "c": 3}
SPLITS = Splits("Dataset001_Test", 0, "cases", {"0": Fold(tuple(CASES), ())})
KIND = """
from dataclasses import dataclass

from samora_pipeline.contracts.splits import Budget


@dataclass(frozen=True)
class Every(Budget):
    forms = "outside_splits:Every:<k>"
    relative = True
    step: int

    @classmethod
    def read(cls, text):
        return cls(int(text)) if text.isdigit() and int(text) else None

    def choose(self, draw):
        return {case: tuple(range(0, count, self.step)) for case, count in draw.slices_per_case.items()}
"""


@pytest.fixture
def _outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside_splits.py").write_text(KIND)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_outside")
def test_a_kind_from_outside_is_drawn_and_kept(tmp_path: Path) -> None:
    name = "outside_splits:Every:4"
    selection = select(SPLITS, name, "0", 0, CASES)
    assert (selection.unit, selection.cases) == ("slices", ("a", "b", "c"))
    assert selection.slices == {"a": (0, 4, 8), "b": (0, 4), "c": (0,)}
    write_json(SPLITS.with_selection(selection), tmp_path / "splits.json")
    assert select(read_json(Splits, tmp_path / "splits.json"), name, "0", 0, {}) == selection
    with pytest.raises(DataError) as caught:
        select(SPLITS, "outside_splits:Every:often", "0", 0, CASES)
    assert caught.value.code == "E-SPLIT-04"


@pytest.mark.usefixtures("_outside")
def test_a_registered_kind_is_named_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    kind = import_module("outside_splits").Every
    monkeypatch.setattr(kind, "read", classmethod(lambda cls, text: cls(3) if text == "every3" else None))
    monkeypatch.setitem(BUDGETS._entries, "every", kind)
    assert select(SPLITS, "every3", "0", 0, CASES).slices["b"] == (0, 3, 6)
    assert parse_budget("10pct") is not None
    with pytest.raises(DataError) as caught:
        select(SPLITS, "every0", "0", 0, CASES)
    assert kind.forms in caught.value.expected


@pytest.mark.parametrize("name", BUDGETS.names())
def test_split_kind(name: str) -> None:
    kind = BUDGETS.get(name)
    assert (kind.__doc__ or "").strip()
    for form in kind.forms.split(", "):
        text = form.replace("<x>", "50").replace("<n>", "2")
        budget = kind.read(text)
        assert budget is not None
        assert parse_budget(text) == budget
        draw = Draw("Dataset001_Test", text, CASES, "slices", "seed")
        choice = budget.choose(draw)
        assert choice == budget.choose(draw)
        assert set(choice) <= set(CASES)
        assert all(index < CASES[case] for case, indices in choice.items() for index in indices or ())
        assert budget.choose(replace(draw, seed="other")).keys() <= CASES.keys()
    assert kind.read("something") is None
