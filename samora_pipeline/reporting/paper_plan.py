"""The commands that would fill those rows of a table of the SAMora paper that no run has measured yet."""

from collections.abc import Sequence
from dataclasses import dataclass

from samora_pipeline.errors import UsageError
from samora_pipeline.evaluation.comparison import Variant
from samora_pipeline.evaluation.reported import reported, reported_keys, reported_table
from samora_pipeline.reporting.paper_columns import MEAN_DICE, METHODS, PRETRAINED, SECONDS, as_published
from samora_pipeline.reporting.paper_tables import measured_rows

_TABLES = (1, 2, 6, 13, 14)
_SETTING = ("Synapse", "10%")
"""dataset and label budget where a table names only one of them"""
# The published lists of H-SAM, which the paper follows (decision 130).
_SPLITS = {"10%": "10pct", "full": "full", "5%": "5pct_slices", "7.5%": "7.5pct_slices"}
_TRAINERS = {name: trainer for trainer, name in METHODS.items()}
_NNUNET = "nnUnet"
# What stands beside a method of the paper, without being the same system.
_BESIDE = {
    **{"UNETR": "UNETR2DTrainer", "SwinUnet": "SwinUNETR2DTrainer"},
    **{"UA-MT": "UAMTTrainer", "DTC": "DTCTrainer", "MC-Net": "MCNetTrainer", "SS-Net": "SSNetTrainer"},
}

_KIN = {METHODS[trainer]: method for method, trainer in _BESIDE.items()}
"""the method of the paper that a row of ours stands beside"""


@dataclass(frozen=True)
class _Value:
    """A value of the paper: its method, and the dataset and the label budget that it belongs to."""

    method: str
    dataset: str
    budget: str

    @property
    def where(self) -> str:
        """Dataset and split as the commands take them."""
        return f"{self.dataset} {_SPLITS[self.budget]}"

    @property
    def line(self) -> str:
        """The command that measures it, or a comment that says why there is none."""
        if self.method == _NNUNET:
            return f"samora_external nnunet {self.where}"
        if self.method in _BESIDE:
            train = f"samora_train {self.dataset} {_BESIDE[self.method]} {_SPLITS[self.budget]}"
            return f"{train}  # on slices, in a row of its own beside {self.method}"
        if (trainer := _TRAINERS.get(self.method)) is None:
            return f"# {self.method}, {self.where}: no trainer here; samora_external command runs its authors' code"
        pool = " --unlabeled paper" if self.method in PRETRAINED else ""
        return f"samora_train {self.dataset} {trainer} {_SPLITS[self.budget]}{pool}"


def missing_commands(number: int, variants: Sequence[Variant]) -> list[str]:
    """The lines of a shell script: for every value of a table without a run a command, or why there is none.

    Args:
        number: 1, 2, 6, 13 or 14, whose rows are methods; those of the other tables are presets of ``samora_train``.
        variants: what has been run.

    Raises:
        UsageError: ``E-CMP-04`` no such table, ``E-CMP-10`` one whose rows are presets.
        DataError: ``E-CMP-03`` runs that were not scored alike.
    """
    rows = measured_rows(number, variants, "sam_family")
    if number not in _TABLES:
        raise UsageError("E-CMP-10", number=number, expected=", ".join(map(str, _TABLES)))
    columns = reported_table(number).columns
    # One run has all organs.
    names = (MEAN_DICE,) if MEAN_DICE in columns else tuple(name for name in columns if name != SECONDS)
    measured = {(row.keys, name) for row in rows for name in row.reported if row.cells[name]}
    measured |= {
        ((*row.keys[:-1], _KIN[row.keys[-1]]), name)
        for row in rows
        for name, values in row.cells.items()
        if values and row.keys[-1] in _KIN and as_published(row.variants[0].first)
    }
    return [
        _value(key, name).line
        for key in reported_keys(number)
        for name in names
        if reported(number, key, name) is not None and (key, name) not in measured
    ]


def _value(key: tuple[str, ...], column: str) -> _Value:
    """What a cell is about: a row may name the label budget, a column the dataset, the budget, or both."""
    *budgets, method = key
    budget, _, dataset = ("", "", "") if column == MEAN_DICE else column.rpartition(" ")
    return _Value(method, dataset or _SETTING[0], (*budgets, budget or _SETTING[1])[0])
