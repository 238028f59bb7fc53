"""samora_train: the stages of a run, from unlabelled scans to a scored network."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from samora_pipeline.command_line import CommandParser, add_precision, run, say
from samora_pipeline.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from samora_pipeline.paths import Roots
    from trainers.runs.planning import PlannedRun
    from trainers.runs.request import Request

_EPILOG = """\
examples:
  samora_train 1 SAMoraTrainer 10pct                       experts, fine-tuning and validation of the default fold
  samora_train 1 SAMoraTrainer 10pct -c                    resume an interrupted run
  samora_train 1 SAMoraTrainer full -f 0 1 2 3 4           cross-validation, one fold after the other
  samora_train 1 SAMoraTrainer 10pct --dry-run             what would be trained on what, and for how long
  samora_train 1 SAMoraTrainer 10pct --set finetune.epochs=40 --name longer
  samora_train 1 SAMoraTrainer 10pct --set fusion=lac      another fusion of the experts; --preset table4-lac is a row
  samora_train 1 SAMoraTrainer full --start-from round_1 --name round_2    more labels for a run that is finished
  samora_train 1 SAMoraTrainer 10pct --unlabeled LiTS 6    experts also from the scans of two other datasets
  samora_train Hippocampus SAMoraTrainer 10pct_cases -f 0 --backbone samora_tiny
  samora_train 1 SAMoraTrainer full -c --max-hours 3.9     in a job of four hours (docs/cluster.md)
  torchrun --nproc-per-node 8 --no-python samora_train 1 SAMoraTrainer full
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    return run(build_parser(), partial(_command, words=words), words)


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser(
        "samora_train", "Train a run: self-supervised experts, supervised fine-tuning, validation.", _EPILOG
    )
    _add_data(parser)
    _add_method(parser)
    _add_session(parser)
    return parser


def _add_data(parser: CommandParser) -> None:
    """The run: dataset, trainer, labels, fold; what experts learn from, and what they must not see."""
    parser.add_argument("dataset", metavar="DATASET", help="number, name or path")
    parser.add_argument("trainer", metavar="TRAINER", help="SAMoraTrainer, SAMedTrainer, or package.module:Class")
    parser.add_argument(
        "split", metavar="SPLIT", help="full, 10pct, 5pct_cases, 120slices, 4cases, or a published name"
    )
    parser.add_argument(
        *("-f", "--fold"),
        dest="folds",
        nargs="+",
        default=(None,),
        metavar="FOLD",
        help="official, 0 to 4 (one after the other), or all (default: official, else 0)",
    )
    parser.add_argument(
        "--unlabeled",
        nargs="+",
        default=(),
        metavar="D",
        help="further datasets for the unlabelled pool; paper: 100,000 CT slices",
    )
    parser.add_argument(
        "--transductive",
        action="store_true",
        help="include scored scans, unlabelled, in the pool; reports are flagged",
    )
    parser.add_argument(
        "--exclude-leaks",
        action="store_true",
        help="drop training and pool scans that overlap scored ones (scan or patient)",
    )
    parser.add_argument(
        "--allow-leak",
        nargs="+",
        default=(),
        metavar="CASE",
        help="include such scans by name (flag: LEAKY)",
    )


def _add_method(parser: CommandParser) -> None:
    """How the experts are made, on which base, with which settings."""
    parser.add_argument(
        "--recipe",
        metavar="R",
        help="how experts are trained. full: distilled from teachers trained on the pool (default); nocpt: from public "
        "teachers; T1, T2: short schedules; scratch: own self-supervised loss (default of tiny backbones); none; "
        "paper_literal",
    )
    parser.add_argument("--levels", type=_levels, metavar="L,...", help="experts: image,patch,pixel (default: all)")
    parser.add_argument(
        "--backbone",
        metavar="B",
        help="sam_vit_b (default), sam_vit_l, sam_vit_h, efficient_sam_vitt, efficient_sam_vits, mobile_sam, "
        "samora_tiny, samora_small; for SAM 2's trainers sam2_hiera_b+ (default), sam2.1_hiera_tiny, "
        "sam2.1_hiera_small, samora2_tiny",
    )
    parser.add_argument(
        "--consistency",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="semi-supervised fine-tuning on unlabelled slices (default: the trainer's)",
    )
    parser.add_argument(
        "--taught-by", nargs="+", default=(), metavar="RUN", help="also train on soft labels of finished runs"
    )
    parser.add_argument(
        "--start-from", metavar="RUN", help="begin with the weights of a finished run, experts included"
    )
    parser.add_argument("--backbone-weights", metavar="W", help="a file, a catalogue name, or bootstrap")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    parser.add_argument("--name", metavar="N", help="name of the run (default: made from what differs from defaults)")
    parser.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="K=V",
        help="change a setting; also fusion, order, scope, residual, rank, decoder, decoder_stages, levels, recipe",
    )
    parser.add_argument(
        "--preset",
        metavar="P",
        help="a row of the paper's ablations: table4-lac, ...; samed-released, hsam-released (docs/ablations.md)",
    )


def _add_session(parser: CommandParser) -> None:
    """How this session of the run goes."""
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="training time, from which the epochs are derived (CPU: 10)"
    )
    parser.add_argument(
        "--max-hours", type=_hours, metavar="H", help="end before this session takes longer: exit code 75, -c resumes"
    )
    parser.add_argument("--stage", metavar="S", help="run only this stage: bootstrap, teacher_image, ..., validate")
    # As nnU-Net has it.
    parser.add_argument("--val", dest="stage", action="store_const", const="validate", help=argparse.SUPPRESS)
    parser.add_argument("-c", dest="resume", action="store_true", help="resume an interrupted run")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    add_precision(parser)
    parser.add_argument(
        "--tensorboard", action="store_true", help="also write curves for TensorBoard (pip install tensorboard)"
    )
    parser.add_argument(
        "--accept-licence", action="store_true", help="fetch teachers whose licence is non-commercial, and accept it"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved run and stop")
    parser.add_argument(
        "--fast-dev-run", dest="fast", action="store_true", help="two steps of every stage and one scored case"
    )


def _command(arguments: argparse.Namespace, *, words: list[str]) -> None:
    train_runs(arguments, words=words)


def train_runs(arguments: argparse.Namespace, *, words: list[str]) -> Path | None:
    """Train what the arguments say, which were given as ``words``; return the run's folder, None after a dry run."""
    begun = time.monotonic()
    _check_order(arguments)
    from samora_pipeline.paths import resolve_roots
    from trainers.runs.typed import check_typed

    requests = requests_of(arguments)
    roots = resolve_roots(arguments.root)
    for request in requests:
        check_typed(request, roots)
    # From here on torch is imported, which takes seconds.
    device = _device(arguments.device)
    if arguments.dry_run:
        for request in requests:
            _describe(request, roots, device, accept=arguments.accept_licence)
        return None
    from samora_pipeline import distributed
    from trainers.loop.ending import TimeLimit
    from trainers.runs.planning import plan_run

    limit = TimeLimit.of(arguments.max_hours, since=begun)
    distributed.start(device)
    try:
        resume, tensorboard = _resume_command(words), arguments.tensorboard
        accept = arguments.accept_licence or _accepts_on_terminal(requests[0], roots, device)
        for request in requests:
            run = plan_run(
                request, roots, device, resume_command=resume, tensorboard=tensorboard, accept_licence=accept
            )
            run = replace(run, context=replace(run.context, limit=limit))
            _run_stages(request, roots, run)
        if distributed.is_main() and not request.fast and request.stage is None:
            name = run.context.folder.parent.name
            summed = f"samora_evaluate --folds {name} && " if len(requests) > 1 else ""
            say(f"next: {summed}samora_predict -i IMAGES -o preds -m {name}")
        return run.context.folder.parent
    finally:
        distributed.stop()


def requests_of(arguments: argparse.Namespace) -> list[Request]:
    """What the parsed arguments ask for, a request per fold."""
    from trainers.runs.request import Request

    given = ((field.name, vars(arguments)[field.name]) for field in fields(Request) if field.name != "fold")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given}
    return [Request(fold=fold, **values) for fold in dict.fromkeys(arguments.folds)]


def _describe(request: Request, roots: Roots, device: torch.device, *, accept: bool) -> None:
    """Print what would be trained (``--dry-run``)."""
    from trainers.runs.describe import describe, describe_settings
    from trainers.runs.planning import plan_run, with_estimates

    run = with_estimates(plan_run(request, roots, device, accept_licence=accept, dry=True))
    say(describe(run, roots))
    say(describe_settings(run))
    say("dry run: nothing was written")
    run.leaks.require_settled()


def _accepts_on_terminal(request: Request, roots: Roots, device: torch.device) -> bool:
    """Show the licences that keep files of the default recipe away, on a terminal; whether they are accepted."""
    from samora_pipeline import distributed
    from trainers.runs.automatic import refused, this_machine
    from trainers.runs.request import resolve

    if (
        not (sys.stdin.isatty() and sys.stderr.isatty())
        or request.fast
        or request.resume
        or distributed.world_size() > 1
    ):
        return False
    files = refused(resolve(request), this_machine(device, roots.weights, accepts=False))
    if not files:
        return False
    for asset in files:
        say(f"licence   {asset.name}: {asset.terms}")
    return input("accept these non-commercial licences, and train the paper's recipe? [y/N] ").strip().lower() in (
        "y",
        "yes",
    )


def _check_order(arguments: argparse.Namespace) -> None:
    """The most common mistake is the order of the arguments: nnU-Net takes DATASET CONFIGURATION FOLD."""
    from trainers.runs.request import find_trainer

    try:
        find_trainer(arguments.trainer)
    except UsageError as error:
        if error.typo is None and error.code == "E-ARG-03":
            fold = ["-f", arguments.split] if arguments.split.isdigit() else []
            error.fix = shlex.join(["samora_train", arguments.dataset, "SAMoraTrainer", "10pct", *fold])
        raise


def _run_stages(request: Request, roots: Roots, run: PlannedRun) -> None:
    import shutil
    from contextlib import ExitStack

    from samora_pipeline import distributed
    from samora_pipeline.files import exclusive
    from trainers.runs.describe import describe
    from trainers.runs.execution import Execution
    from trainers.runs.folder import check_progress
    from trainers.runs.planning import with_estimates

    run.leaks.require_settled()
    context = run.context
    if request.fast and distributed.is_main():
        shutil.rmtree(context.folder.parent.parent, ignore_errors=True)
    elif request.stage in (None, "finetune"):
        check_progress(context.folder, resume=request.resume)
    # Every rank has looked at the folder before the main one begins to write.
    distributed.barrier()
    if distributed.is_main():
        with distributed.alone():  # the other ranks do not measure
            run = run if request.fast else with_estimates(run)
        say(describe(run, roots))
        if not (run.leaks.excluded or run.config.held_out):
            # A selection without the leaks or the held-out cases belongs to this run alone; others draw anew.
            context.dataset.store_selection(run.config.selection)
    with ExitStack() as held:
        # Nobody may plan anew what is read here.
        for folder in run.read_folders:
            held.enter_context(exclusive(folder, shared=True))
        Execution(run, one_case=request.fast).run(request.stage)
    if distributed.is_main():
        say(f"run: {context.folder}")


def _hours(text: str) -> float:
    hours = float(text)
    if not hours > 0:
        raise argparse.ArgumentTypeError(f"{text} leaves no time to train in")
    return hours


def _levels(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _device(name: str | None) -> torch.device:
    """The device of this process; under torchrun each rank takes the CUDA device of its number."""
    import torch

    from samora_pipeline.inference.device import pick_device

    device = pick_device(name)
    if device.type == "cuda" and ":" not in (name or ""):
        device = pick_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(device)
    return device


def _resume_command(arguments: list[str]) -> str:
    words = ["samora_train", *arguments, *([] if "-c" in arguments else ["-c"])]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        local = os.environ.get("LOCAL_WORLD_SIZE", "1")
        nodes = int(os.environ["WORLD_SIZE"]) // int(local)
        several = ["--nnodes", str(nodes)] if nodes > 1 else []
        words = ["torchrun", *several, "--nproc-per-node", local, "--no-python", *words]
    return shlex.join(words)


if __name__ == "__main__":
    raise SystemExit(main())
