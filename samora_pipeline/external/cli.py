"""samora_external: a program of others trains on a split and predicts; our code scores it, into a run folder."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from samora_pipeline.command_line import CommandParser, run, say
from samora_pipeline.errors import UsageError

if TYPE_CHECKING:
    from samora_pipeline.external.runner import Runner

_EPILOG = """The labels of SPLIT alone are given to the program, those of slices as an ignore mask; what it predicts for
the cases that are scored is scored as every run is. The same command goes on after any interruption.

  samora_external nnunet LA 5pct --programs nnunet/bin                    nnU-Net v2 in an environment of its own
  samora_external nnunet LA 5pct --programs nnunet/bin --configuration 3d_fullres --preset resenc_l
  samora_external command LA full --method UNETR++ \\
      --command "python train.py --data {train} --out {work}" \\
      --command "python test.py --model {work} --in {images} --out {predictions}"
  samora_compare nnunet__5pct__default SAMoraTrainer__5pct__default
"""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser("samora_external", "Train and score a program of others on a split.", _EPILOG)
    parser.add_argument("runner", choices=("nnunet", "command"), metavar="RUNNER", help="nnunet or command")
    parser.add_argument("dataset", metavar="DATASET", help="number or name of a planned dataset")
    parser.add_argument("split", metavar="SPLIT", help="full, 10pct, 4cases, 120slices, or a published split")
    parser.add_argument("-f", "--fold", metavar="FOLD", help="default: official where there is one, else 0")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the labels that are drawn (default: 0)")
    parser.add_argument("--name", default="default", metavar="N", help="name of the run (default: default)")
    parser.add_argument("--programs", type=Path, metavar="BIN", help="nnunet: the bin folder of its environment")
    parser.add_argument("--configuration", default="2d", metavar="C", help="nnunet: 2d (default), 3d_fullres, ...")
    parser.add_argument(
        "--preset",
        choices=("default", "resenc_m", "resenc_l", "resenc_xl"),
        default="default",
        help="nnunet: its plain U-Net (default), or residual encoders for 8, 24 or 40 GB",
    )
    parser.add_argument("--trainer", default="nnUNetTrainer", metavar="T", help="nnunet: its trainer class")
    parser.add_argument("--trainers", type=Path, metavar="FOLDER", help="nnunet: trainer classes of your own")
    parser.add_argument("--device", default="cuda", metavar="D", help="nnunet: cuda (default) or cpu")
    parser.add_argument("--method", metavar="NAME", help="command: what the tables call it")
    parser.add_argument(
        "--command",
        dest="commands",
        action="append",
        default=[],
        metavar="LINE",
        help="command: with {train}, {images}, {predictions}, {work}, {seed}; may be repeated",
    )
    return parser


def run_external(arguments: argparse.Namespace) -> None:
    """Run the program, score its label maps and print the scores."""
    runner = _runner(arguments)
    from samora_pipeline.evaluation.tables import render
    from samora_pipeline.external.run import ExternalRun
    from samora_pipeline.paths import resolve_roots

    if not _NAME.fullmatch(arguments.name):
        raise UsageError("E-EXT-07", found=f"--name {arguments.name}")
    external = ExternalRun(
        runner,
        resolve_roots(arguments.root),
        arguments.dataset,
        arguments.split,
        arguments.fold,
        arguments.seed,
        arguments.name,
    )
    say(render(external.run()))
    say(f"\nwritten: {external.folder}")


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``samora_external``."""
    return run(build_parser(), run_external, argv)


def _runner(arguments: argparse.Namespace) -> Runner:
    from samora_pipeline.external.nnunet import NnunetRunner
    from samora_pipeline.external.runner import CommandRunner

    if arguments.runner == "command":
        if not _NAME.fullmatch(arguments.method or ""):
            raise UsageError("E-EXT-07", found=f"--method {arguments.method}")
        return CommandRunner(arguments.method, tuple(arguments.commands))
    device = arguments.device.partition(":")[0]
    return NnunetRunner(
        arguments.programs or Path(),
        arguments.configuration,
        arguments.preset,
        arguments.trainer,
        arguments.trainers,
        device,
    )


if __name__ == "__main__":
    raise SystemExit(main())
