"""samora_plan_and_preprocess: from raw datasets to plans, splits and stored slices."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samora_pipeline.command_line import CommandParser, run, say
from samora_pipeline.errors import DataError, FailedCasesError, SamoraError, UsageError
from samora_pipeline.paths import DatasetFolder, Roots, resolve_roots

if TYPE_CHECKING:
    from planners.preparation import Checked, Prepared, Request
    from samora_pipeline.contracts.integrity import Remark
    from samora_pipeline.contracts.plans import Planned
    from samora_pipeline.contracts.splits import Splits

_SHOWN = 10

_EPILOG = """\
Without -d: every raw dataset whose plan is missing or stale (with --set or --explain: every raw dataset).

examples:
  samora_plan_and_preprocess
  samora_plan_and_preprocess -d Synapse --explain
  samora_plan_and_preprocess -d 1 --verify-only
  samora_plan_and_preprocess -d 7 --set input_size=512 --set intensity.0=window:-125,275

on several machines that see the same files:
  samora_plan_and_preprocess -d 4 --shard 1/2      on the first, --shard 2/2 on the second, in any order
  samora_plan_and_preprocess -d 4 --merge          once, when both have finished
  samora_plan_and_preprocess -d 4 --dask tcp://scheduler:8786
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
    parser.add_argument("--verify-only", action="store_true", help="check all cases anew; write the report only")
    parser.add_argument("--explain", action="store_true", help="print every planned value with its reason")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="fix a value of the plan"
    )
    parser.add_argument(
        "--set-aside", action="store_true", help="leave faulty cases out and go on (exit code 3) instead of stopping"
    )
    sharing = parser.add_mutually_exclusive_group()
    sharing.add_argument("--shard", metavar="I/N", help="store the I-th of N parts of the cases only")
    sharing.add_argument("--merge", action="store_true", help="check that all shards are complete and write the plan")
    parser.add_argument("--dask", metavar="ADDRESS", help="work on the cases on this Dask cluster (extra: dask)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(build_parser(), _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    from planners.overrides import read_pairs

    _refuse_contradictions(arguments)
    overrides = read_pairs(arguments.overrides)
    roots = resolve_roots(arguments.root)
    say(f"data root: {roots.root} ({roots.origin})")
    folders = _chosen(arguments, roots)
    codes = []
    for folder in folders:
        try:
            codes.append(_work_on(folder, _request(folder, roots, overrides, arguments), arguments))
        except SamoraError as error:
            if len(folders) == 1 or arguments.debug:
                raise
            sys.stderr.write(f"{folder.folder_name}: {error.text()}\n")
            codes.append(error.exit_code)
    return max(codes, default=0)


def _refuse_contradictions(arguments: argparse.Namespace) -> None:
    if arguments.workers is not None and arguments.workers < 1:
        raise UsageError("E-ARG-01", "-np must be at least 1", found=str(arguments.workers), fix="-np 1")
    pairs = [
        ("--merge", arguments.merge, "--set", arguments.overrides),
        ("--merge", arguments.merge, "--verify-only", arguments.verify_only),
        ("--merge", arguments.merge, "--set-aside", arguments.set_aside),
        ("--shard", arguments.shard, "--verify-only", arguments.verify_only),
        ("--dask", arguments.dask, "-np", arguments.workers),
    ]
    for first, given, second, also in pairs:
        if given and also:
            raise UsageError(
                "E-ARG-09",
                f"{first} and {second} do not go together",
                found="both",
                expected="one of them",
                fix="samora_plan_and_preprocess --help",
            )


def _request(folder: DatasetFolder, roots: Roots, overrides: dict[str, str], arguments: argparse.Namespace) -> Request:
    from planners.preparation import Request
    from planners.shards import Shard
    from samora_pipeline.parallel import Engine

    raw, target = folder.raw, roots.preprocessed / folder.folder_name
    if arguments.dask:
        # The workers of a cluster have working directories of their own.
        raw, target = raw.absolute(), target.absolute()
    return Request(
        raw,
        target,
        overrides,
        Engine(arguments.workers, arguments.dask),
        set_aside=arguments.set_aside,
        anew=arguments.verify_only,
        shard=Shard.read(arguments.shard) if arguments.shard else None,
    )


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
    if arguments.merge:
        return [folder for folder in present if _has_shards(roots.preprocessed / folder.folder_name)] or present
    chosen = []
    for folder in present:
        if is_current(folder.raw, roots.preprocessed / folder.folder_name):
            say(f"{folder.folder_name}: up to date")
        else:
            chosen.append(folder)
    if not chosen:
        splits = _splits(roots.preprocessed / present[-1].folder_name)
        say(f"nothing to do; a dataset named with -d is checked again\nnext: {_next_command(present[-1], splits)}")
    return chosen


def _has_shards(target: Path) -> bool:
    from planners.shards import SHARDS_FOLDER

    return (target / SHARDS_FOLDER).is_dir()


def _work_on(folder: DatasetFolder, request: Request, arguments: argparse.Namespace) -> int:
    from planners.merging import merge
    from planners.preparation import check, open_dataset, prepare

    say(folder.folder_name)
    dataset = open_dataset(request.raw, request.overrides)
    prepared: Prepared | None = None
    with _held(request):
        if arguments.merge:
            checked, prepared = merge(request, dataset)
        else:
            checked = check(request, dataset)
            _say_checked(checked, request)
            if not request.anew:
                prepared = prepare(request, checked)
    if prepared is not None:
        _say_prepared(prepared, explain=arguments.explain)
        say(f"  in         {request.target}")
        say(f"next: {_next_command(folder, prepared.splits)}")
    if checked.fingerprint.set_aside:
        raise _set_aside(checked)
    return 0


def _held(request: Request) -> AbstractContextManager[None]:
    """The preprocessed folder for this process alone; shards hold it together."""
    from samora_pipeline.files import exclusive, shared

    if request.anew:
        return nullcontext()
    return exclusive(request.target) if request.shard is None else shared(request.target)


def _say_checked(checked: Checked, request: Request) -> None:
    from samora_pipeline.contracts.integrity import INTEGRITY_FILE

    cases = checked.fingerprint.cases.values()
    parts = [f"{sum(case.subset == subset for case in cases)} {subset}" for subset in ("train", "test", "unlabelled")]
    again = f" ({checked.reused} with the same files as before)" if checked.reused else ""
    say(f"  checked    {len(cases)} cases ({', '.join(parts)}): no fault{again}")
    say(f"  report     {request.target / INTEGRITY_FILE}")
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
    if prepared.splits is not None:
        say(f"  folds      {', '.join(prepared.splits.folds)}")
    for note in prepared.notes:
        say(f"  note       {note}")
    say(f"  stored     {prepared.stored.written} cases written, {prepared.stored.kept} already there and intact")


def _splits(target: Path) -> Splits | None:
    from samora_pipeline.contracts.json_io import read_json
    from samora_pipeline.contracts.splits import SPLITS_FILE, Splits

    path = target / SPLITS_FILE
    return read_json(Splits, path) if path.is_file() else None


def _next_command(folder: DatasetFolder, splits: Splits | None) -> str:
    if splits is None:
        return f"samora_plan_and_preprocess -d {folder.number} --merge  when all shards have finished"
    if not any(fold.train for fold in splits.folds.values()):
        command = f"samora_train DATASET SAMoraTrainer 10pct --unlabeled {folder.number}"
        return f"{command}  with a DATASET that has labels: experts learn from these scans too"
    return f"samora_train {folder.number} SAMoraTrainer {next(iter(splits.published), '10pct')}"


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


if __name__ == "__main__":
    raise SystemExit(main())
