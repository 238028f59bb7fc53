"""Tables shaped like those of the SAMora paper: rows are runs, columns are theirs; its values stand under ``reported``.

A reported value is shown only beside a run of the same method, dataset and label budget that was scored on the
published test cases by the protocol ``sam_family``. Mistakes found in the paper's tables are mended or
said below the table, and what the run does otherwise than the paper stands in its row. On demand every row of the
paper is there, those without a run too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from samora_pipeline.errors import UsageError
from samora_pipeline.evaluation.comparison import Protocol, Variant, check_comparable
from samora_pipeline.evaluation.reported import Reported, reported, reported_keys, reported_table
from samora_pipeline.evaluation.run_scores import ScoredRun
from samora_pipeline.reporting import paper_columns as columns
from samora_pipeline.reporting.paper_columns import Cells
from samora_pipeline.reporting.text_tables import TextTable

# Columns to which several runs of a row contribute.
_AVERAGED = frozenset({columns.SECONDS})
_DIGITS = {"Fine-tuning epochs": 0, columns.SECONDS: 1}
_HD95 = "HD95 voxel"
"""the distance that the paper calls HD, as the protocol ``sam_family`` measures it"""
_NOT_RUN = "not run; the paper's values"


@dataclass(frozen=True)
class Shape:
    """How a table is laid out.

    With ``one_dataset`` all runs share a dataset, else only those of one column do; ``one_split`` says the same of the
    label budget. ``timed`` tables name the machine. ``h_samora_only``: the paper's values are H-SAMora's.
    ``varies`` names the choices that the table itself is about.
    """

    keys: Callable[[ScoredRun], tuple[str, ...]]
    cells: Callable[[ScoredRun, Protocol], Cells]
    one_split: bool = True
    one_dataset: bool = True
    timed: bool = False
    h_samora_only: bool = False
    varies: frozenset[str] = frozenset()


@dataclass
class Row:
    """One row: its key, the runs in it, what they measured in each column, and what the paper reports beside it."""

    keys: tuple[str, ...]
    variants: list[Variant]
    cells: dict[str, list[float]]
    reported: dict[str, Reported]


def _by_budget(run: ScoredRun, protocol: Protocol) -> Cells:
    return columns.mean_dice(run, protocol, columns.budget_column(run))


def _by_dataset(run: ScoredRun, protocol: Protocol) -> Cells:
    return columns.mean_dice(run, protocol, columns.dataset(run)) | columns.seconds(run)


def _method(run: ScoredRun) -> tuple[str, ...]:
    return (columns.method(run),)


def _method_and_recipe(run: ScoredRun) -> tuple[str, ...]:
    recipe = run.config.recipe
    return (f"{columns.method(run)}-{recipe}" if recipe in ("T1", "T2") else columns.method(run),)


_FUSION, _RECIPE = frozenset({"fusion"}), frozenset({"recipe"})
_FULL = Shape(lambda run: (columns.budget(run), columns.method(run)), columns.organs, one_split=False)
_BUDGETS = Shape(_method, _by_budget, one_split=False, one_dataset=False)
_ORIGINS = Shape(
    lambda run: (*columns.origins(run), columns.method(run)), columns.mean_dice, varies=_RECIPE | {"levels"}
)
_EFFICIENCY = Shape(_method, lambda run, by: columns.epochs(run) | columns.parameters(run) | columns.mean_dice(run, by))
_RANKS = Shape(
    _method,
    lambda run, by: columns.mean_dice(run, by, f"Rank = {run.config.model.lora_rank}"),
    varies=frozenset({"rank"}),
)
_SPEED = Shape(
    lambda run: columns.fusion(run)[3:],
    lambda run, by: columns.mean_dice(run, by) | columns.seconds(run),
    timed=True,
    h_samora_only=True,
    varies=_FUSION,
)
_PHASES = Shape(
    _method_and_recipe, lambda run, by: columns.hours(run) | columns.mean_dice(run, by), timed=True, varies=_RECIPE
)
SHAPES: dict[int, Shape] = {
    1: _FULL,
    2: _BUDGETS,
    3: _EFFICIENCY,
    4: Shape(columns.fusion, columns.mean_dice, h_samora_only=True, varies=_FUSION),
    5: _ORIGINS,
    6: Shape(_method, _by_dataset, one_dataset=False, timed=True),
    9: _RANKS,
    10: _SPEED,
    11: Shape(columns.fusion, _by_budget, one_split=False, one_dataset=False, h_samora_only=True, varies=_FUSION),
    12: _PHASES,
    13: _FULL,
    14: _BUDGETS,
    15: _ORIGINS,
}


def paper_table(
    number: int,
    variants: Sequence[Variant],
    protocol: Protocol,
    warnings: tuple[str, ...],
    *,
    every_row: bool = False,
) -> TextTable:
    """Lay the variants out like table ``number`` of the paper.

    Variants of one key (such as one method on several datasets) share a row as long as no cell is taken twice. Seeds
    are averaged in a cell, with their standard deviation. With ``every_row`` the rows of the paper come first, in its
    order and with all of its values; one without a run says so.

    Raises:
        UsageError: ``E-CMP-04`` for a number that has no such table.
        DataError: ``E-CMP-03`` for runs that were not scored alike.
    """
    rows = measured_rows(number, variants, protocol)
    shape, table = SHAPES[number], reported_table(number)
    names = list(dict.fromkeys(name for row in rows for name in row.cells))
    candidates = names
    if every_row:
        rows = _with_the_papers(number, rows)
        candidates = [_HD95 if name == "HD" else name for name in table.columns]
    printed = [name for name in candidates if any(name in row.reported for row in rows)]
    header = (*table.keys, "Run", *names, *(f"reported {name}" for name in printed))
    header += ("The run differs from the paper in",) * bool(printed) + ("Timed on",) * shape.timed
    body = [
        (
            *row.keys,
            ", ".join(variant.label for variant in row.variants) or _NOT_RUN,
            *(_measured(name, row.cells.get(name, [])) for name in names),
            *(_printed(row.reported.get(name)) for name in printed),
            *([_deviations(row, shape)] * bool(printed)),
            *([_machines(row)] * shape.timed),
        )
        for row in rows
    ]
    notes = [f"Dice in percent, protocol {protocol}", *_seed_note(rows)]
    notes += dict.fromkeys(note for row in rows for value in row.reported.values() for note in value.notes)
    return TextTable(
        name=f"table_{number:02d}_{protocol}",
        title=f"Laid out like Table {number} of the paper: {table.caption}",
        header=header,
        rows=tuple(body),
        notes=tuple(notes),
        warnings=warnings,
    )


def measured_rows(number: int, variants: Sequence[Variant], protocol: Protocol) -> list[Row]:
    """The rows of the variants in table ``number``; errors as in ``paper_table``."""
    if number not in SHAPES:
        raise UsageError("E-CMP-04", number=number, found=str(number), expected=", ".join(map(str, SHAPES)))
    _check(variants, SHAPES[number])
    return _rows(number, SHAPES[number], variants, protocol)


def _with_the_papers(number: int, rows: Sequence[Row]) -> list[Row]:
    """Every row of the paper with all of its values, in its order, then the rows that it does not have."""
    keys = reported_keys(number)
    listed: list[Row] = []
    for key in keys:
        found = {name: reported(number, key, name) for name in reported_table(number).columns}
        printed = {_HD95 if name == "HD" else name: value for name, value in found.items() if value is not None}
        own = [row for row in rows if row.keys == key and row.reported]
        listed += [replace(row, reported=printed) for row in own] or [Row(key, [], {}, printed)]
    return listed + [row for row in rows if row.keys not in keys or not row.reported]


def _check(variants: Sequence[Variant], shape: Shape) -> None:
    groups: dict[str, list[ScoredRun]] = {}
    for run in (run for variant in variants for run in variant.runs):
        groups.setdefault("" if shape.one_dataset else run.config.dataset, []).append(run)
    for group in groups.values():
        check_comparable(group, same_split=shape.one_split)


def _rows(number: int, shape: Shape, variants: Sequence[Variant], protocol: Protocol) -> list[Row]:
    rows: list[Row] = []
    for variant in variants:
        keys, cells = shape.keys(variant.first), _cells(shape, variant, protocol)
        taken = {name for name, values in cells.items() if values} - _AVERAGED
        free = (row for row in rows if row.keys == keys and not taken & {name for name in row.cells if row.cells[name]})
        row = next(free, None)
        if row is None:
            row = Row(keys, [], {}, {})
            rows.append(row)
        row.variants.append(variant)
        _add(row.cells, cells)
        row.reported |= _reported(number, shape, variant.first, protocol, cells)
    return rows


def _cells(shape: Shape, variant: Variant, protocol: Protocol) -> Cells:
    cells: Cells = {}
    for run in variant.runs:
        _add(cells, shape.cells(run, protocol))
    return cells


def _add(cells: Cells, further: Cells) -> None:
    for name, values in further.items():
        cells.setdefault(name, []).extend(values)


def _reported(number: int, shape: Shape, run: ScoredRun, protocol: Protocol, cells: Cells) -> dict[str, Reported]:
    settings = ("", columns.dataset(run), columns.budget(run), columns.budget_column(run))
    other_method = shape.h_samora_only and columns.method(run) != columns.H_SAMORA
    if protocol != "sam_family" or not columns.as_published(run) or other_method:
        return {}
    if reported_table(number).setting not in settings:
        return {}
    found = {name: reported(number, shape.keys(run), "HD" if name.startswith("HD95") else name) for name in cells}
    return {name: value for name, value in found.items() if value is not None}


def _measured(name: str, values: Sequence[float]) -> str:
    if not values:
        return "-"
    digits = _DIGITS.get(name, 2)
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 and name not in _AVERAGED else ""
    return f"{fmean(values):.{digits}f}{spread}"


def _printed(value: Reported | None) -> str:
    if value is None:
        return "-"
    return f"{value.value:g}" if value.also is None else f"{value.value:g} ({value.also:g})"


def _deviations(row: Row, shape: Shape) -> str:
    """What the runs of a row do otherwise than the paper, but for what the table itself varies."""
    found = [columns.deviations(run) for variant in row.variants for run in variant.runs]
    listed = dict.fromkeys(text for one in found for name, text in one.items() if name not in shape.varies)
    return "; ".join(listed) or "-"


def _machines(row: Row) -> str:
    return "; ".join(dict.fromkeys(columns.machine(run) for variant in row.variants for run in variant.runs)) or "-"


def _seed_note(rows: Sequence[Row]) -> list[str]:
    seeds = [len(variant.runs) for row in rows for variant in row.variants]
    return ["±: standard deviation over seeds, which says nothing about patients"] if max(seeds, default=1) > 1 else []
