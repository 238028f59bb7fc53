"""samora_plan_and_preprocess: from raw datasets to plans, splits and stored slices."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from samora_pipeline.command_line import CommandParser, run, say
from samora_pipeline.errors import DataError, FailedCasesError, SamoraError, UsageError
from samora_pipeline.paths import DatasetFolder, Roots, resolve_roots

if TYPE_CHECKING:
    from planners.integrity import Remark
    from planners.preparation import Checked, Prepared
    from samora_pipeline.contracts.plans import Planned

_SHOWN = 10

_EPILOG = """\
Without -d: every raw dataset whose plan is missing or stale (with --set or --explain: every raw dataset).

examples:
  samora_plan_and_preprocess
  samora_plan_and_preprocess -d Synapse --explain
  samora_plan_and_preprocess -d 1 --verify-only
  samora_plan_and_preprocess -d 7 --set input_size=512 --set intensity.0=window:-125,275
"""


def build_parser() -> CommandParser:
    """The command's arguments."""
    parser = CommandParser(
        "samora_plan_and_preprocess",
        "Check raw datasets, plan how they are sliced and scaled, split them into folds, and store their slices.",
        _EPILOG,
    )
    parser.add_argument(
        "-d", "--dataset", dest="datasets", nargs="+", metavar="D", help="datasets by number, name or path"
    )
    parser.add_argument(
        "-np", dest="workers", type=int, metavar="N", help="cases worked on at a time (default: by memory)"
    )
    parser.add_argument("--verify-only", action="store_true", help="check all cases and write nothing")
    parser.add_argument("--explain", action="store_true", help="print every planned value with its reason")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="fix a value of the plan"
    )
    parser.add_argument(
        "--set-aside", action="store_true", help="leave faulty cases out and go on (exit code 3) instead of stopping"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(build_parser(), _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    from planners.overrides import read_pairs

    if arguments.workers is not None and arguments.workers < 1:
        raise UsageError("E-ARG-01", "-np must be at least 1", found=str(arguments.workers), fix="-np 1")
    overrides = read_pairs(arguments.overrides)
    roots = resolve_roots(arguments.root)
    say(f"data root: {roots.root} ({roots.origin})")
    folders = _chosen(arguments, roots)
    codes = []
    for folder in folders:
        try:
            codes.append(_work_on(folder, roots, overrides, arguments))
        except SamoraError as error:
            if len(folders) == 1 or arguments.debug:
                raise
            sys.stderr.write(f"{folder.folder_name}: {error.text()}\n")
            codes.append(error.exit_code)
    return max(codes, default=0)


def _chosen(arguments: argparse.Namespace, roots: Roots) -> list[DatasetFolder]:
    if arguments.datasets:
        return [roots.dataset(token) for token in arguments.datasets]
    from planners.preparation import is_current

    present = roots.datasets()
    if not present:
        raise DataError(
            "E-DATA-03",
            f"there is no raw dataset under {roots.raw}",
            found="no folder DatasetNNN_Name",
            expected="at least one raw dataset",
            fix="samora_convert -d list  shows what can be converted; --root DIR looks elsewhere",
        )
    if arguments.verify_only or arguments.overrides or arguments.explain:
        return present
    chosen = []
    for folder in present:
        if is_current(folder.raw, roots.preprocessed / folder.folder_name):
            say(f"{folder.folder_name}: up to date")
        else:
            chosen.append(folder)
    if not chosen:
        say(f"nothing to do; a dataset named with -d is checked again\nnext: {_next_command(present[-1])}")
    return chosen


def _work_on(folder: DatasetFolder, roots: Roots, overrides: dict[str, str], arguments: argparse.Namespace) -> int:
    from planners.preparation import check, prepare

    target = roots.preprocessed / folder.folder_name
    say(folder.folder_name)
    checked = check(
        folder.raw, target, overrides, arguments.set_aside, arguments.workers, reuse=not arguments.verify_only
    )
    _say_checked(checked)
    if not arguments.verify_only:
        prepared = prepare(checked, target, overrides, arguments.workers)
        _say_prepared(prepared, explain=arguments.explain)
        say(f"  in         {target}")
        say(f"next: {_next_command(folder, prepared)}")
    if checked.fingerprint.set_aside:
        raise _set_aside(checked)
    return 0


def _say_checked(checked: Checked) -> None:
    cases = checked.fingerprint.cases.values()
    parts = [f"{sum(case.subset == subset for case in cases)} {subset}" for subset in ("train", "test", "unlabelled")]
    again = " (the files are those that were checked before)" if checked.reused else ""
    say(f"  checked    {len(cases)} cases ({', '.join(parts)}): no fault{again}")
    _say_remarks(checked.remarks)


def _say_remarks(remarks: Sequence[Remark]) -> None:
    for remark in remarks[:_SHOWN]:
        say(f"  remark     {remark.case + ': ' if remark.case else ''}{remark.text}")
    if len(remarks) > _SHOWN:
        say(f"  remark     and {len(remarks) - _SHOWN} more")


def _say_prepared(prepared: Prepared, explain: bool) -> None:
    plans = prepared.plans
    values: dict[str, Planned[Any]] = {
        "slice_axis": plans.slice_axis,
        "in_plane": plans.in_plane,
        "in_plane_spacing": plans.in_plane_spacing,
        "slice_size": plans.slice_size,
        "input_size": plans.input_size,
        "channels": plans.channels,
        "intensity": plans.intensity,
        "batch_size": plans.batch_size,
        "mirror": plans.mirror,
    }
    rules = [
        rule.scheme + (f" {rule.low:g}..{rule.high:g}" if rule.low is not None and rule.high is not None else "")
        for rule in plans.intensity.value
    ]
    for key, planned in values.items() if explain else ():
        shown = ", ".join(rules) if key == "intensity" else planned.value
        say(f"  {key:<18} {shown}\n{'':<20} because: {planned.why}")
    if not explain:
        size = f"{plans.in_plane.value} to {plans.input_size.value} x {plans.input_size.value}"
        say(f"  planned    {plans.slice_axis.value} slices, {size}, {', '.join(rules)}  (--explain says why)")
    say(f"  folds      {', '.join(prepared.splits.folds)}")
    for note in prepared.notes:
        say(f"  note       {note}")
    say(f"  stored     {prepared.stored.written} cases written, {prepared.stored.kept} already there and intact")


def _next_command(folder: DatasetFolder, prepared: Prepared | None = None) -> str:
    published = list(prepared.splits.published) if prepared else []
    return f"samora_train {folder.number} SAMoraTrainer {published[0] if published else '10pct'}"


def _set_aside(checked: Checked) -> FailedCasesError:
    left_out = checked.fingerprint.set_aside
    shown = ", ".join(f"{case} ({code})" for case, code in left_out.items())
    return FailedCasesError(
        "E-CASE-03",
        f"{len(left_out)} cases of {checked.dataset.folder.name} were set aside",
        found=shown,
        expected="cases without a fault",
        fix=f"samora_plan_and_preprocess -d {checked.dataset.folder.name} --verify-only  shows what is wrong with them",
    )
