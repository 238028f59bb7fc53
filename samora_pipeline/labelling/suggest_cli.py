"""samora_suggest: which slices to label next, in one folder to hand to an annotator."""

import argparse
from pathlib import Path

from samora_pipeline.command_line import CommandParser, aligned, run, say

_EPILOG = """\
Without a model the slices are spread over all scans of imagesTr and imagesUn; with one, they are those that it is
unsure about, in turns for every label (docs/labelling.md). No slice has labels already, nor a labelled neighbour.
Scans of a published test set, and those that the model is scored on, are left out.

The folder holds, for each scan (scans/CASE), the image, a label map (what has no label is "ignore") and a proposal
for 3D Slicer; slices.csv lists the slices, slices.png shows them, slices.html shows them one by one.

examples:
  samora_suggest LA --slices 120 -o round_1                   the first slices, of all scans
  samora_suggest LA --slices 60 --per-scan 6 -o round_1       six slices of each of ten scans
  samora_suggest LA -m round_1 --slices 120 -o round_2        what the run "round_1" is unsure about
  samora_suggest LA -m round_1 --slices 60 -o second_reader --beside round_2    for somebody else meanwhile
"""
_SHOWN = 10


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(build_parser(), _suggest, argv)


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser("samora_suggest", "Choose the slices that are labelled next.", _EPILOG)
    parser.add_argument("dataset", metavar="DATASET", help="number, name or path; it has to be planned")
    parser.add_argument(
        "-m", dest="model", metavar="RUN", help="a finished run that proposes labels, all folds averaged"
    )
    parser.add_argument("--slices", type=int, required=True, metavar="N", help="how many")
    parser.add_argument("--per-scan", type=int, metavar="K", help="K of one scan; with a model: at most K")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--beside", type=Path, nargs="+", default=(), metavar="FOLDER", help="what these folders ask for is left out"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--allow-code", action="store_true", help="accept a run with parts named package.module:X")
    return parser


def _suggest(arguments: argparse.Namespace) -> None:
    from samora_pipeline.labelling.suggest import Request, suggest
    from samora_pipeline.paths import resolve_roots

    roots = resolve_roots(arguments.root)
    say(f"root: {roots.root} ({roots.origin})")
    made = suggest(
        Request(
            dataset=arguments.dataset,
            output=arguments.output,
            slices=arguments.slices,
            per_scan=arguments.per_scan,
            model=arguments.model,
            beside=tuple(arguments.beside),
            seed=arguments.seed,
            device=arguments.device,
            allow_code=arguments.allow_code,
        ),
        roots,
        say,
    )
    rows = [
        (one.case, str(one.index), one.reason, "" if one.score is None else f"{one.score:.4f}")
        for one in made.slices[:_SHOWN]
    ]
    for line in aligned([("scan", "slice", "reason", "score"), *rows]):
        say(f"  {line}")
    say(f"{arguments.output}: {len(made.slices)} slices of {len(made.cases)} scans, all of them in slices.csv")
    say(f"next, when they are labelled: samora_label check {arguments.output}")


if __name__ == "__main__":
    raise SystemExit(main())
