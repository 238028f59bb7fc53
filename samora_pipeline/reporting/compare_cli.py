"""samora_compare: scored runs beside each other, patient by patient, and in tables shaped like the paper's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samora_pipeline.command_line import CommandParser, run, say
from samora_pipeline.errors import UsageError

if TYPE_CHECKING:
    from samora_pipeline.evaluation.comparison import PairedTable, Protocol, Variant
    from samora_pipeline.reporting.text_tables import Format, TextTable

_EPILOG = """A RUN is a run or one of its folds (RUN/fold_K): a path, a name, or a unique part of a name.
Runs that differ in the seed alone are averaged within each patient. Both protocols are printed unless one is named.

  samora_compare SAMedTrainer SAMoraTrainer                the answer in the first line, then the means
  samora_compare SAMedTrainer SAMoraTrainer --full         each organ, all tests
  samora_compare RUN RUN RUN --table 4 --format latex
  samora_compare RUN RUN --baseline RUN -o comparison      also writes forest plots, and all numbers as paired.csv
  samora_compare --table 14 --reported                     every row of the paper; with RUNs also what they measured
  samora_compare --table 14 --plan                         the commands that are missing for table 1, 2, 6, 13 or 14

  samora_compare --budgets RUN RUN RUN RUN --next 120      Dice over labelled slices, and what 120 more should bring

Tables 1 to 6 and 9 to 15 are those of the SAMora paper; its own values stand in columns called "reported". Runs of
several datasets or label budgets are refused unless a table is asked for that has a column or a row for each.
"""
_ENDINGS = {"md": "md", "latex": "tex", "csv": "csv"}


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser("samora_compare", "Compare scored runs.", _EPILOG)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run or fold folders; the first is the baseline")
    parser.add_argument("--baseline", metavar="RUN", help="what the others are compared with (default: the first RUN)")
    parser.add_argument("--protocol", choices=("physical", "sam_family"), help="default: both")
    parser.add_argument(
        "--table", type=int, metavar="N", help="print the runs like table N of the paper, without tests"
    )
    parser.add_argument("--reported", action="store_true", help="with --table: all rows of the paper, run or not")
    parser.add_argument("--plan", action="store_true", help="with --table: the commands of the rows that are not run")
    parser.add_argument("--budgets", action="store_true", help="runs with other numbers of labels: a curve over them")
    parser.add_argument(
        "--next",
        dest="more",
        type=int,
        default=100,
        metavar="N",
        help="--budgets: slices that may follow (default: 100)",
    )
    parser.add_argument("--full", action="store_true", help="also each organ, all tests and what is compared")
    parser.add_argument("--format", choices=tuple(_ENDINGS), default="md", help="default: md")
    parser.add_argument("-o", dest="output", type=Path, metavar="FOLDER", help="write tables, numbers and forest plots")
    parser.add_argument("--allow-code", action="store_true", help="accept runs with parts named package.module:X")
    return parser


def compare_runs(arguments: argparse.Namespace) -> None:
    """Read the runs, print the tables, and write them where a folder is named."""
    _check(arguments)
    if arguments.budgets:
        _budgets(arguments)
        return
    from samora_pipeline.evaluation.comparison import PROTOCOLS, compare
    from samora_pipeline.reporting.paper_plan import missing_commands
    from samora_pipeline.reporting.paper_tables import paper_table
    from samora_pipeline.reporting.text_tables import document, paired_text, run_table, shared_flags
    from samora_pipeline.reporting.verdicts import answers, means_table

    variants, baseline = _variants(arguments)
    if arguments.plan:
        say("\n".join(missing_commands(arguments.table, variants)) or "# every row has a run")
        return
    warnings = shared_flags([one for variant in variants for one in variant.runs])
    protocols: Sequence[Protocol] = [arguments.protocol] if arguments.protocol else PROTOCOLS
    if arguments.reported:
        protocols = ["sam_family"]
    tables = [run_table(variants, warnings)] if variants else []
    paired: list[PairedTable] = []
    for protocol in protocols:
        if arguments.table is not None or baseline is None:
            every_row = arguments.reported
            tables.append(paper_table(arguments.table, variants, protocol, warnings, every_row=every_row))
            continue
        own = compare(variants, baseline, protocol)
        paired += own
        tables += [paired_text(table, warnings) for table in own]
    for_people = paired and arguments.format == "md"
    if for_people:
        say("\n".join(answers(paired)) + "\n")
    short = for_people and not arguments.full
    say(document([means_table(paired, warnings)] if short else tables, arguments.format))
    if arguments.output is not None:
        written = _write(arguments.output, arguments.format, tables, paired, warnings)
        say(f"written: {', '.join(path.name for path in written)} in {arguments.output}")
    elif for_people:
        say(f"{'--full shows each organ; ' if short else ''}-o FOLDER writes all tables, numbers and forest plots")


def _budgets(arguments: argparse.Namespace) -> None:
    """Fit the curve over the runs, print it, and write it where a folder is named."""
    from samora_pipeline.evaluation.budgets import fit_budgets
    from samora_pipeline.evaluation.run_scores import distinct_labels, read_run
    from samora_pipeline.files import write_text
    from samora_pipeline.paths import resolve_roots
    from samora_pipeline.reporting.budget_table import budget_table, draw_budgets
    from samora_pipeline.reporting.text_tables import document, shared_flags

    if arguments.more < 1 or arguments.table is not None or arguments.baseline is not None:
        raise UsageError("E-CMP-08", found=f"--next {arguments.more}, --table {arguments.table}")
    roots = resolve_roots(arguments.root)
    runs = distinct_labels([read_run(one, roots.results, allow_code=arguments.allow_code) for one in arguments.runs])
    curve, warnings = fit_budgets(runs, roots.preprocessed), shared_flags(runs)
    text = document([budget_table(curve, arguments.more, warnings)], arguments.format)
    say(text)
    if arguments.output is not None:
        write_text(arguments.output / f"budgets.{_ENDINGS[arguments.format]}", text)
        draw_budgets(curve, arguments.more, arguments.output / "budgets.png", warnings)
        say(f"written: budgets.{_ENDINGS[arguments.format]}, budgets.png in {arguments.output}")


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``samora_compare``."""
    return run(build_parser(), compare_runs, argv)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is read."""
    of_the_paper = arguments.reported or arguments.plan
    if of_the_paper and (arguments.table is None or arguments.protocol == "physical"):
        raise UsageError("E-CMP-09", found="no --table" if arguments.table is None else "--protocol physical")
    if not of_the_paper and not arguments.runs:
        raise UsageError("E-CMP-05", "no run is named", found="no RUN")


def _variants(arguments: argparse.Namespace) -> tuple[list[Variant], Variant | None]:
    from samora_pipeline.evaluation.comparison import group_seeds
    from samora_pipeline.evaluation.run_scores import distinct_labels, read_run
    from samora_pipeline.paths import resolve_roots

    results = resolve_roots(arguments.root).results
    runs = [read_run(place, results, allow_code=arguments.allow_code) for place in arguments.runs]
    if not runs:
        return [], None
    folder = runs[0].folder
    if arguments.baseline is not None:
        named = read_run(arguments.baseline, results, allow_code=arguments.allow_code)
        folder = named.folder
        if folder not in [one.folder for one in runs]:
            runs.insert(0, named)
    variants = group_seeds(distinct_labels(runs))
    baseline = next(variant for variant in variants if any(one.folder == folder for one in variant.runs))
    if len(variants) < 2 and arguments.table is None:
        raise UsageError("E-CMP-05", found=variants[0].label)
    return variants, baseline


def _write(
    folder: Path, form: Format, tables: Sequence[TextTable], paired: Sequence[PairedTable], warnings: tuple[str, ...]
) -> list[Path]:
    from samora_pipeline.escaping import csv_text
    from samora_pipeline.files import write_text
    from samora_pipeline.reporting.forest import draw_forest
    from samora_pipeline.reporting.text_tables import csv, document, paired_frame

    texts = {f"comparison.{_ENDINGS[form]}": document(tables, form)}
    if form == "csv":
        texts = {f"{table.name}.csv": csv(table) for table in tables}
    if paired:
        texts["paired.csv"] = csv_text(paired_frame(paired, warnings))
    for name, text in texts.items():
        write_text(folder / name, text)
    plots = [folder / f"forest_{one.protocol}_{one.record.name}.{kind}" for one in paired for kind in ("png", "svg")]
    for path, table in zip(plots, (one for one in paired for _ in range(2)), strict=True):
        draw_forest(table, path, warnings)
    return [*(folder / name for name in texts), *plots]


if __name__ == "__main__":
    raise SystemExit(main())
