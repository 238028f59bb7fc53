"""samora_plan_and_preprocess: from raw datasets to plans, splits and stored slices."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from samora_pipeline.command_line import CommandParser, add_dask, as_ours, run, say
from samora_pipeline.errors import DataError, FailedCasesError
from samora_pipeline.paths import DatasetFolder, Roots, resolve_roots

if TYPE_CHECKING:
    from planners.fingerprint_extractor import Survey
    from planners.preparation import Prepared, Request
    from samora_pipeline.contracts.dataset import BudgetUnit
    from samora_pipeline.contracts.splits import Splits
    from samora_pipeline.parallel import Engine

_SHOWN = 10
_FEW_CASES: dict[BudgetUnit, int] = {"cases": 20, "slices": 10}
"""labelled cases of which a tenth can be trained on: two cases, or slices of ten"""

_EPILOG = """\
Without -d: every raw dataset whose plan is missing or stale (with --set, --planner or --explain: every raw dataset).
A value that is edited in plans.json stays when the dataset is planned again; --set takes its place.

examples:
  samora_plan_and_preprocess
  samora_plan_and_preprocess -d Synapse --explain
  samora_plan_and_preprocess -d 1 --verify-only
  samora_plan_and_preprocess -d 7 --set input_size=512 --set intensity.0=window:-125,275
  samora_plan_and_preprocess -d 7 --planner my_package.planning:LargerSlices
  samora_plan_and_preprocess -d 4 --dask tcp://scheduler:8786      on several machines that see the same files
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
        "-np", dest="workers", type=int, metavar="N", help="cases processed in parallel (default: by memory)"
    )
    parser.add_argument("--verify-only", action="store_true", help="check all cases anew; write the report only")
    # As nnU-Net has it; here every dataset is checked.
    parser.add_argument("--verify-dataset-integrity", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--explain", action="store_true", help="print every planned value with its reason")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override a planned value"
    )
    parser.add_argument("--planner", metavar="NAME", help="a custom planner: package.module:Class")
    parser.add_argument(
        "--skip-invalid",
        dest="skipped",
        action="store_true",
        help="skip faulty cases (exit code 3) instead of stopping",
    )
    add_dask(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(build_parser(), plan_datasets, argv)


def plan_datasets(arguments: argparse.Namespace) -> int:
    """Run the command on its parsed arguments; return its exit code."""
    from planners.overrides import read_pairs
    from samora_pipeline.parallel import Engine

    engine = Engine.of(arguments.workers, arguments.dask, usual=None)
    overrides = read_pairs(arguments.overrides)
    roots = resolve_roots(arguments.root)
    say(f"data root: {roots.root} ({roots.origin})")
    folders = _chosen(arguments, roots)
    codes = []
    for folder in folders:
        try:
            codes.append(_work_on(folder, _request(folder, roots, overrides, engine, arguments), arguments))
        except Exception as error:
            ours = as_ours(error)
            if ours is None or len(folders) == 1 or arguments.debug:
                raise
            sys.stderr.write(f"{folder.folder_name}: {ours.text()}\n")
            codes.append(ours.exit_code)
    return max(codes, default=0)


def _request(
    folder: DatasetFolder, roots: Roots, overrides: dict[str, str], engine: Engine, arguments: argparse.Namespace
) -> Request:
    from planners.experiment_planner import DEFAULT_PLANNER
    from planners.preparation import Request

    return Request(
        folder.raw,
        roots.preprocessed / folder.folder_name,
        overrides,
        engine,
        arguments.planner or DEFAULT_PLANNER,
        skipped=arguments.skipped,
        anew=arguments.verify_only,
    )


def _chosen(arguments: argparse.Namespace, roots: Roots) -> list[DatasetFolder]:
    if arguments.datasets:
        return [roots.dataset(token) for token in arguments.datasets]
    from planners.preparation import is_current
    from samora_pipeline.contracts.json_io import read_json
    from samora_pipeline.contracts.splits import SPLITS_FILE, Splits

    present = roots.datasets()
    if not present:
        raise DataError("E-DATA-03", roots=roots, found="no folder DatasetNNN_Name")
    if arguments.verify_only or arguments.overrides or arguments.planner or arguments.explain:
        return present
    chosen = []
    for folder in present:
        if is_current(folder.raw, roots.preprocessed / folder.folder_name):
            say(f"{folder.folder_name}: up to date")
        else:
            chosen.append(folder)
    if not chosen:
        splits = read_json(Splits, roots.preprocessed / present[-1].folder_name / SPLITS_FILE)
        say(f"nothing to do; a dataset named with -d is checked again\nnext: {_next_command(present[-1], splits)}")
    return chosen


def _work_on(folder: DatasetFolder, request: Request, arguments: argparse.Namespace) -> int:
    from planners.preparation import check, open_dataset, prepare
    from samora_pipeline.files import exclusive

    say(folder.folder_name)
    dataset = open_dataset(request.raw, request.overrides)
    prepared: Prepared | None = None
    with nullcontext() if request.anew else exclusive(request.target):
        checked = check(request, dataset)
        _say_checked(checked, request)
        if not request.anew:
            prepared = prepare(request, dataset, checked)
    if prepared is not None:
        _say_prepared(prepared, explain=arguments.explain)
        say(f"  in         {request.target}")
        say(f"next: {_next_command(folder, prepared.splits)}")
    if left_out := checked.fingerprint.skipped:
        from samora_pipeline.registry import shortened

        shown = shortened(f"{case} ({code})" for case, code in left_out.items())
        raise FailedCasesError("E-CASE-03", number=len(left_out), dataset=request.raw.name, found=shown)
    return 0


def _say_checked(checked: Survey, request: Request) -> None:
    from samora_pipeline.contracts.integrity import INTEGRITY_FILE

    cases, remarks = checked.fingerprint.cases.values(), checked.remarks
    parts = [f"{sum(case.subset == subset for case in cases)} {subset}" for subset in ("train", "test", "unlabelled")]
    again = f" ({checked.reused} with the same files as before)" if checked.reused else ""
    say(f"  checked    {len(cases)} cases ({', '.join(parts)}): no fault{again}")
    say(f"  report     {request.target / INTEGRITY_FILE}")
    for remark in remarks[:_SHOWN]:
        say(f"  remark     {remark.case + ': ' if remark.case else ''}{remark.text}")
    if len(remarks) > _SHOWN:
        say(f"  remark     and {len(remarks) - _SHOWN} more")


def _say_prepared(prepared: Prepared, explain: bool) -> None:
    plans = prepared.plans
    rules = ", ".join(rule.text for rule in plans.intensity.value)
    for key, planned in plans.planned.items() if explain else ():
        shown = rules if key == "intensity" else planned.value
        say(f"  {key:<18} {shown}\n{'':<20} because: {planned.why}")
    if not explain:
        say(f"  planned    {plans.slice_axis.value} slices, {plans.in_plane.value}, {rules}  (--explain says why)")
    say(f"  folds      {', '.join(prepared.splits.folds)}")
    for note in prepared.notes:
        say(f"  note       {note}")
    say(f"  stored     {prepared.written} cases written, {prepared.kept} already there and intact")


def _next_command(folder: DatasetFolder, splits: Splits) -> str:
    if not any(fold.train for fold in splits.folds.values()):
        command = f"samora_train DATASET SAMoraTrainer 10pct --unlabeled {folder.number}"
        return f"{command}  with a DATASET that has labels: experts learn from these scans too"
    return f"samora_train {folder.number} SAMoraTrainer {_proposed_split(splits)}"


def _proposed_split(splits: Splits) -> str:
    """The published split, a tenth of many labelled cases, or all of a few."""
    if splits.published:
        return next(iter(splits.published))
    few = _FEW_CASES[splits.budget_unit]
    return "10pct" if len(splits.fold(splits.default_fold).train) >= few else "full"


if __name__ == "__main__":
    raise SystemExit(main())
