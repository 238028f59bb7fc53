"""Tables of text as Markdown, LaTeX or CSV, with warnings and notes; among them those of a paired comparison."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from samora_pipeline.command_line import aligned
from samora_pipeline.contracts.scores import Interval
from samora_pipeline.escaping import csv_text, markdown_text
from samora_pipeline.evaluation.comparison import PairedRow, PairedTable, Variant
from samora_pipeline.evaluation.run_scores import ScoredRun
from samora_pipeline.evaluation.significance import ranking_remark
from samora_pipeline.evaluation.tables import number_text

Format = Literal["md", "latex", "csv"]

_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # Text fonts of the old encoding print other letters in place of these.
    **{letter: f"${letter}$" for letter in "<>|"},
    "±": r"$\pm$",
    "✓": r"$\checkmark$",
    "×": r"$\times$",
}


@dataclass(frozen=True)
class TextTable:
    """Rows of text under a header. ``name`` is that of its file, ``warnings`` (such as PHANTOM) go with it."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def markdown(table: TextTable) -> str:
    """The table in Markdown, columns aligned so that it reads well in a terminal too."""
    cells = [[markdown_text(cell) for cell in line] for line in (table.header, *table.rows)]
    first, *lines = aligned([["", *line, ""] for line in cells], " | ")
    rule = re.sub(r"[^|]", "-", first.strip())
    blocks = [f"**{markdown_text(table.title)}**", "\n".join(line.strip() for line in (first, rule, *lines))]
    if table.warnings:
        blocks.insert(0, f"> **{' | '.join(map(markdown_text, table.warnings))}**")
    blocks += ["\n".join(f"- {markdown_text(note)}" for note in table.notes)] * bool(table.notes)
    return "\n\n".join(blocks) + "\n"


def latex(table: TextTable) -> str:
    """The table as a LaTeX float that needs no package but amssymb (for check marks)."""
    warnings = rf"\textbf{{{escape(' | '.join(table.warnings))}}} " if table.warnings else ""
    body = [" & ".join(escape(cell) for cell in line) + r" \\" for line in table.rows]
    notes = [rf"\par\footnotesize {escape(note)}" for note in table.notes]
    head = " & ".join(rf"\textbf{{{escape(cell)}}}" for cell in table.header) + r" \\"
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{warnings}{escape(table.title)}}}",
        rf"\begin{{tabular}}{{{'l' * len(table.header)}}}",
        r"\hline",
        head,
        r"\hline",
        *body,
        r"\hline",
        r"\end{tabular}",
        *notes,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def csv(table: TextTable) -> str:
    """The table as CSV; the warnings are a column, because a row may be copied without its heading."""
    frame = pd.DataFrame(table.rows, columns=list(table.header))
    if table.warnings:
        frame["warnings"] = " | ".join(table.warnings)
    return csv_text(frame)


def document(tables: Sequence[TextTable], form: Format) -> str:
    """All tables one after another in one text."""
    write = {"md": markdown, "latex": latex, "csv": csv}[form]
    return "\n".join(write(table) for table in tables)


def escape(text: str) -> str:
    """Text with everything that LaTeX would take as a command written out."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def shared_flags(runs: Sequence[ScoredRun]) -> tuple[str, ...]:
    """The warnings of a comparison: those of all runs plainly, those of some with the runs they belong to."""
    names = dict.fromkeys(warning for run in runs for warning in run.warnings)
    bearers = {warning: [run.label for run in runs if warning in run.warnings] for warning in names}
    return tuple(
        warning if len(labels) == len(runs) else f"{warning} ({', '.join(labels)})"
        for warning, labels in bearers.items()
    )


def run_table(variants: Sequence[Variant], warnings: tuple[str, ...]) -> TextTable:
    """What is compared: each run with its seeds, warnings, cases and patients."""
    rows = [
        (
            *(variant.label, run.config.dataset, run.config.split, ", ".join(run.folds), str(run.config.seed)),
            *(str(run.summary.n), str(run.summary.bootstrap.n), ", ".join(run.warnings) or "-"),
        )
        for variant in variants
        for run in variant.runs
    ]
    header = ("run", "dataset", "split", "folds", "seed", "cases", "patients", "warnings")
    return TextTable("runs", "Runs", header, tuple(rows), warnings=warnings)


def paired_text(table: PairedTable, warnings: tuple[str, ...]) -> TextTable:
    """One metric with n, both intervals and all p-values: the mean over the organs first, then each organ."""
    better = "higher" if table.record.higher_is_better else "lower"
    unit = f" {table.unit}" if table.unit else ""
    rows = (*table.overall, *table.organs)
    tests = [sum(row.test.t_p is not None for row in family) for family in (table.overall, table.organs)]
    notes = [
        f"difference: run minus baseline, one value per patient; {better} is better; n counts patients",
        f"Holm: over the tests of the mean ({tests[0]}) and, apart from them, over those of single organs ({tests[1]})",
        ranking_remark(min(row.test.n for row in rows)),
        *(f"{variant}: {remark} of fine-tuning" for variant, remark in table.budgets.items()),
    ]
    return TextTable(
        name=f"paired_{table.protocol}_{table.record.name}",
        title=f"{table.record.name}{unit}, protocol {table.protocol}: against {table.baseline}",
        header=(
            *("run", "organ", "n", "baseline", "run's score", "difference", "95 % t interval", "95 % bootstrap"),
            *("p t-test", "p Wilcoxon", "Holm t-test", "Holm Wilcoxon"),
        ),
        rows=tuple(_cells(row, table.record.digits) for row in rows),
        notes=tuple(note for note in notes if note),
        warnings=warnings,
    )


def paired_frame(tables: Sequence[PairedTable], warnings: tuple[str, ...]) -> pd.DataFrame:
    """All comparisons as numbers, one row per protocol, metric, run and organ; the data of the forest plots."""
    rows = [
        {
            "protocol": table.protocol,
            "metric": table.record.name,
            "unit": table.unit,
            "baseline": table.baseline,
            "run": row.variant,
            "organ": row.organ,
            "n_patients": row.test.n,
            "baseline_mean": row.baseline_mean,
            "run_mean": row.variant_mean,
            "difference": row.test.difference,
            **{
                f"{name}_{end}": getattr(interval, end, None)
                for name, interval in (("t", row.test.interval), ("bootstrap", row.test.bootstrap))
                for end in ("low", "high")
            },
            "p_t": row.test.t_p,
            "p_wilcoxon": row.test.wilcoxon_p,
            "holm_t": row.holm_t,
            "holm_wilcoxon": row.holm_wilcoxon,
            "family": family,
            "warnings": " | ".join(warnings),
        }
        for table in tables
        for family, listed in (("overall", table.overall), ("organs", table.organs))
        for row in listed
    ]
    return pd.DataFrame(rows)


def probability(value: float | None) -> str:
    """A p-value as it is printed: three digits, never a bare zero."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _cells(row: PairedRow, digits: int) -> tuple[str, ...]:
    test = row.test
    return (
        row.variant,
        row.organ,
        str(test.n),
        number_text(row.baseline_mean, digits),
        number_text(row.variant_mean, digits),
        "-" if test.difference is None else signed(test.difference, digits),
        interval_text(test.interval, digits),
        interval_text(test.bootstrap, digits),
        *(probability(value) for value in (test.t_p, test.wilcoxon_p, row.holm_t, row.holm_wilcoxon)),
    )


def signed(value: float, digits: int) -> str:
    """A difference with its sign; one that rounds to nothing has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def interval_text(interval: Interval | None, digits: int) -> str:
    """Both ends of an interval of differences."""
    return "-" if interval is None else f"[{signed(interval.low, digits)}, {signed(interval.high, digits)}]"
