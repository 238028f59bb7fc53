"""A page about two to four runs of one dataset: what differs, by how much, and where (Fig. 4 and 5 of two methods)."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from samora_pipeline.contracts.json_io import to_plain
from samora_pipeline.errors import SamoraError
from samora_pipeline.evaluation.comparison import PROTOCOLS, PairedRow, PairedTable, Variant, compare
from samora_pipeline.evaluation.run_scores import distinct_labels
from samora_pipeline.evaluation.significance import ranking_remark
from samora_pipeline.models.freezing import Part
from samora_pipeline.reporting.attention import METHOD, attention_section
from samora_pipeline.reporting.forest import forest_figure
from samora_pipeline.reporting.html_blocks import Block, Cell, Figure, Note, Section, Table
from samora_pipeline.reporting.html_images import drawing, svg_image
from samora_pipeline.reporting.html_page import Page
from samora_pipeline.reporting.pictures import SelectedCase, case_mean, choose_cases
from samora_pipeline.reporting.report import (
    RUN_LETTERS,
    explanations_of,
    lettered,
    load_networks,
    probed_section,
    with_pictures,
)
from samora_pipeline.reporting.report_network import trained_parts
from samora_pipeline.reporting.report_record import account_table
from samora_pipeline.reporting.report_run import ReportedRun, section_or_reason
from samora_pipeline.reporting.report_scores import case_cell
from samora_pipeline.reporting.report_training import curves_figure, flattened
from samora_pipeline.reporting.text_tables import TextTable, paired_text, run_table, shared_flags, signed

# Forest plots of the others would only repeat the tables.
_DRAWN = ("Dice", "HD95")
_BY_LETTER = {"baseline": "A", "run's score": "B"}
_LONGEST = 100
"""characters of a setting in the table of differences; lists of cases are far longer"""


def comparison_page(runs: list[ReportedRun], device: torch.device) -> Page:
    """The page about two to four runs; the first is the baseline.

    Raises:
        DataError: ``E-CMP-03`` the runs were not scored alike, or their records are damaged.
    """
    labels = distinct_labels([run.scored for run in runs])
    runs = [replace(run, scored=scored) for run, scored in zip(runs, labels, strict=True)]
    baseline, *others = runs
    variants = [Variant(run.label, (run.scored,)) for run in runs]
    warnings = shared_flags([run.scored for run in runs])
    tables = {protocol: compare(variants, variants[0], protocol) for protocol in PROTOCOLS}
    chosen = choose_cases(runs[-1].scored.summary)
    sections = (
        _paired_section(variants, [table for own in tables.values() for table in own], warnings),
        _case_section(runs, chosen),
        section_or_reason("attention", partial(_attention, runs, chosen, device, warnings)),
        _training_section(runs, warnings),
        _settings_section(runs),
    )
    page = Page(
        title=f"{', '.join(run.label for run in others)} against {baseline.label}",
        headline=_headline(tables["physical"]),
        facts=(
            ("dataset", baseline.config.dataset),
            ("A, baseline", baseline.label),
            *((letter, run.label) for letter, run in zip(RUN_LETTERS[1:], others, strict=False)),
        ),
        warnings=warnings,
        explanations=explanations_of(warnings),
        sections=sections,
    )
    return with_pictures(page, runs, chosen)


def _headline(tables: list[PairedTable]) -> tuple[str, ...]:
    found = next((table for table in tables if table.record.name == "Dice"), None)
    rows = found.overall if found else ()
    sentences = [
        _difference(row, f"{letter}: mean" if len(rows) > 1 else "Mean")
        for letter, row in zip(RUN_LETTERS[1:], rows, strict=False)
    ]
    remark = ranking_remark(min(row.test.n for row in rows)) if rows else ""
    budgets = [f"{variant}: {text}." for variant, text in (found.budgets if found else {}).items()]
    return (*sentences, *budgets, *((f"{remark}.",) if remark else ())) or ("No patient has a Dice in both runs.",)


def _difference(row: PairedRow, begin: str) -> str:
    difference, interval = row.test.difference, row.test.interval
    if difference is None:
        return f"{begin} Dice cannot be compared: no patient has one in both runs."
    between = f" (95 % interval {signed(interval.low, 3)} to {signed(interval.high, 3)})" if interval else ""
    return (
        f"{begin} Dice differs by {signed(difference, 3)}{between}: {row.variant_mean:.3f} against "
        f"{row.baseline_mean:.3f}, paired over {row.test.n} patients."
    )


def _paired_section(variants: list[Variant], tables: list[PairedTable], warnings: tuple[str, ...]) -> Section:
    blocks: list[Block] = [_block(run_table(variants, warnings), folded=False)]
    for table in tables:
        if table.protocol == "physical" and table.record.name in _DRAWN:
            blocks.append(_forest(table, warnings))
        text = paired_text(table, warnings)
        if len(variants) == 2:
            # There is one run beside the baseline, so its name need not stand in every row.
            header = tuple(_BY_LETTER.get(name, name) for name in text.header[1:])
            text = replace(text, header=header, rows=tuple(row[1:] for row in text.rows))
        blocks.append(_block(text, folded=table.record.name != "Dice"))
    minus = "Run (B) minus baseline (A)" if len(variants) == 2 else "Each run minus the baseline (A)"
    return Section("paired", tuple(blocks), words=(minus,))


def _forest(table: PairedTable, warnings: tuple[str, ...]) -> Figure:
    with drawing():
        # It writes the warnings itself.
        image = svg_image(forest_figure(table, warnings), ())
    rows = [row for row in (*table.overall, *table.organs) if row.test.difference is not None]
    words = "; ".join(f"{row.organ} {signed(row.test.difference or 0.0, 3)}" for row in rows)
    return Figure(
        f"forest-{table.record.name}",
        image,
        f"Forest plot of differences of {table.record.name}: {words}",
        "Marks: mean difference over patients. Lines: 95 % t intervals. The numbers are in the table below.",
    )


def _block(table: TextTable, *, folded: bool) -> Table:
    return Table(table.name, table.title, table.header, table.rows, folded=folded, notes=table.notes)


def _case_section(runs: list[ReportedRun], chosen: list[SelectedCase]) -> Section:
    scored = [{row.case: case_mean(row) for row in run.scored.summary.metric_per_case} for run in runs]
    rows = []
    for row in runs[0].scored.summary.metric_per_case:
        first, *others = (dice[row.case] for dice in scored)
        differences = (_minus(dice, first) for dice in others)
        rows.append((case_cell(row.case, chosen), row.patient, first, *others, *differences))
    letters = RUN_LETTERS[: len(runs)]
    header = ("case", "patient", *(f"mean Dice {letter}" for letter in letters))
    header += tuple(f"{letter} minus A" for letter in letters[1:])
    table = Table("cases", "Scored cases", header, rows, sortable=True)
    return Section("case-list", (table,), "compared_cases", (lettered(runs), letters[-1]))


def _minus(value: float | None, baseline: float | None) -> Cell:
    difference = None if value is None or baseline is None else value - baseline
    return Cell("-" if difference is None else signed(difference, 3), difference)


def _attention(
    runs: list[ReportedRun], chosen: list[SelectedCase], device: torch.device, warnings: tuple[str, ...]
) -> Section:
    if not chosen:
        return Section("attention", (Note("No scored case has an organ in its reference."),), words=(METHOD,))
    make = partial(attention_section, warnings=warnings)
    return probed_section(load_networks(runs, chosen, device), runs, chosen, make)


def _training_section(runs: list[ReportedRun], warnings: tuple[str, ...]) -> Section:
    blocks: list[Block] = []
    for place, run in enumerate(runs):
        fold = next(iter(run.folds))
        if log := run.log(fold):
            blocks.append(curves_figure(f"curves-{place}", f"{run.label}, fold {fold}", log, warnings))
        account = account_table(run.config, _trained(run, fold))
        blocks.append(replace(account, name=f"account-{place}", caption=f"Parameters, {run.label}"))
    return Section("training", tuple(blocks), "compared_training")


def _trained(run: ReportedRun, fold: str) -> frozenset[Part] | None:
    try:
        return trained_parts(run.folds[fold])
    except SamoraError:
        return None


def _settings_section(runs: list[ReportedRun]) -> Section:
    rows = list(_different(runs))
    table = Table("different", "What differs between the runs", ("setting", *(run.label for run in runs)), rows)
    return Section("settings", (table,) if rows else (Note("The configurations are equal."),))


def _different(runs: list[ReportedRun]) -> Iterator[tuple[str, ...]]:
    configs = [dict(flattened(to_plain(run.config))) for run in runs]
    for name in dict.fromkeys(name for config in configs for name in config):
        values = tuple(config.get(name, "-") for config in configs)
        if len(set(values)) > 1 and not name.endswith(".why"):
            yield name, *map(_shortened, values)


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]} ... ({text.count(', ') + 1} values)"
