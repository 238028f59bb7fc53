"""samora_label: what an annotator brought back, checked and added to the raw dataset as sparse labels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from samora_pipeline.command_line import CommandParser, run, say

if TYPE_CHECKING:
    from samora_pipeline.labelling.adding import Change

_EPILOG = """\
Files are read from scans/CASE of the folder that samora_suggest wrote: the edited label map or proposal, or any other
segmentation (.seg.nrrd of 3D Slicer; .nii.gz, .nrrd of ITK-SNAP or others, with an exported label description beside
it where the values are others). slices.html exports verdicts.json, which belongs into the folder itself.

  check   say what is new and what is still waiting; nothing is written
  add     the same, and write it into labelsTr; everything that nobody labelled stays "ignore"

examples:
  samora_label check round_1
  samora_label add round_1 --accept-unchanged      proposals that nobody changed are right
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(build_parser(), _label, argv)


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser("samora_label", "Read labels back from a folder of samora_suggest.", _EPILOG)
    parser.add_argument("action", choices=("check", "add"), help="see below")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder that samora_suggest wrote")
    parser.add_argument(
        "--accept-unchanged", action="store_true", help="asked slices that nobody changed are right as proposed"
    )
    return parser


def _label(arguments: argparse.Namespace) -> None:
    from samora_pipeline.errors import DataError
    from samora_pipeline.files import exclusive
    from samora_pipeline.labelling.adding import add_changes, change_of
    from samora_pipeline.labelling.corrections import read_correction
    from samora_pipeline.labelling.scans import open_labelled, read_round
    from samora_pipeline.paths import resolve_roots
    from samora_pipeline.run_log import Progress

    folder = arguments.folder
    record = read_round(folder)
    dataset = open_labelled(record.dataset, resolve_roots(arguments.root))
    changes = []
    with Progress("read", len(record.cases), unit="scan") as progress:
        for name in record.cases:
            read = read_correction(folder, record, name, dataset, accept_unchanged=arguments.accept_unchanged)
            changes.append(change_of(read, dataset))
            progress.advance(name)
    stated = [change for change in changes if change.correction.stated.any()]
    waiting = {one.correction.case.name: one.correction.waiting for one in changes if one.correction.waiting}
    if not stated:
        raise DataError("E-ROUND-14", folder=folder, found=f"{len(record.slices)} slices are waiting")
    for change in stated:
        say(f"  {_described(change)}")
    for name, slices in waiting.items():
        say(f"  {name}: waiting for slices {', '.join(map(str, slices))}")
    number = sum(len(change.slices) for change in stated)
    if arguments.action == "check":
        say(f"{folder}: labels in {number} slices of {len(stated)} scans; nothing was written")
        say(f"next: samora_label add {folder}")
        return
    with exclusive(dataset.raw.folder):
        remarks = add_changes(stated, record, dataset)
    for remark in remarks:
        say(f"note: {remark}")
    say(f"{dataset.raw.folder}: labels in {number} slices of {len(stated)} scans were added")
    say(f"next: samora_plan_and_preprocess -d {dataset.name} && samora_train {dataset.name} SAMoraTrainer full")


def _described(change: Change) -> str:
    correction = change.correction
    parts = [f"{len(change.slices)} slices from {', '.join(correction.files)}"]
    counts = {"new": change.new, "changed": change.altered, "withdrawn": change.withdrawn}
    parts += [f"{count:,} voxels {what}" for what, count in counts.items() if count] or ["all in the dataset already"]
    shown = ", ".join(f"{name} {count:,}" for name, count in change.by_name.items())
    return f"{correction.case.name}: {', '.join(parts)} ({shown})"


if __name__ == "__main__":
    raise SystemExit(main())
