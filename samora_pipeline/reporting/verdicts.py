"""The answer of a comparison in one sentence per run, and the table of the means behind it."""

from collections.abc import Sequence

from samora_pipeline.evaluation.comparison import MEAN, PairedRow, PairedTable
from samora_pipeline.evaluation.significance import RANKING_NEEDS, ranking_remark
from samora_pipeline.evaluation.tables import number_text
from samora_pipeline.reporting.text_tables import TextTable, interval_text, probability, signed

_LEVEL = 0.05
_ANSWERED_BY = "Dice"


def answers(tables: Sequence[PairedTable]) -> list[str]:
    """One sentence per compared run, from the mean Dice of the first protocol."""
    table = next((one for one in tables if one.record.name == _ANSWERED_BY), None)
    if table is None:
        return ["no patient has a Dice in both runs"]
    return [_answer(row, table) for row in table.overall]


def means_table(tables: Sequence[PairedTable], warnings: tuple[str, ...]) -> TextTable:
    """The means over the organs in all metrics and protocols, without single organs."""
    rows = [
        (
            *(row.variant, table.protocol, f"{table.record.name} {table.unit}".strip(), str(row.test.n)),
            *(number_text(value, table.record.digits) for value in (row.baseline_mean, row.variant_mean)),
            "-" if row.test.difference is None else signed(row.test.difference, table.record.digits),
            interval_text(row.test.interval, table.record.digits),
            probability(row.holm_t),
        )
        for table in tables
        for row in table.overall
    ]
    header = (
        *("run", "protocol", "metric", "n", "baseline", "run's score", "difference", "95 % t interval"),
        "Holm t-test",
    )
    return TextTable(MEAN, f"Means against {tables[0].baseline}", header, tuple(rows), warnings=warnings)


def _answer(row: PairedRow, table: PairedTable) -> str:
    test, digits = row.test, table.record.digits
    if test.difference is None:
        return f"{row.variant}: no patient has a {table.record.name} in both runs"
    told = row.holm_t is not None and row.holm_t < _LEVEL and test.n >= RANKING_NEEDS
    word = ("better than" if test.difference > 0 else "worse than") if told else "not distinguishable from"
    mine, theirs = (number_text(value, digits) for value in (row.variant_mean, row.baseline_mean))
    interval = f" {interval_text(test.interval, digits)}" if test.interval else ""
    p = f"p = {probability(row.holm_t)}".replace("= <", "< ")
    parts = [
        f"{table.record.name} {mine} against {theirs}, difference {signed(test.difference, digits)}{interval}",
        f"{p}, {ranking_remark(test.n) or f'n = {test.n} patients'}",
        table.budgets.get(row.variant, ""),
    ]
    return f"{row.variant} is {word} {table.baseline}: {'; '.join(filter(None, parts))}"
