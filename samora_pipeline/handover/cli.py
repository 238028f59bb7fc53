"""samora_export: a trained run as a folder or a zip for others, or label maps in the formats of viewers."""

import argparse
import sys
from pathlib import Path

from samora_pipeline.command_line import EXIT_FAILED_CASES, EXIT_OK, CommandParser, add_dask, run, say

_LABELS = "labels"
_FORMATS = ("nii.gz", "seg.nrrd", "itksnap", "dcm")

_MODEL_EPILOG = """\
The export can be used directly (samora_predict -m FOLDER) or installed elsewhere (samora_import FILE.zip). It contains
no images and no case identifiers. The base encoder is included where its licence allows redistribution.

  samora_export labels ...    label maps for viewers; samora_export labels --help

examples:
  samora_export SAMoraTrainer__10pct -o synapse_10pct.zip
  samora_export results/Dataset001_Synapse/SAMoraTrainer__10pct__default -o FOLDER -f 0 1 --without-base
"""
_LABELS_EPILOG = """\
formats:
  nii.gz      NIfTI; names and colours in its header, as Connectome Workbench reads them
  seg.nrrd    3D Slicer: segments with names, colours and terminology
  itksnap     one label description file for ITK-SNAP, which reads the NIfTI files as they are
  dcm         DICOM SEG of one case, with the series it was made from (extra: dicom)

Predictions of samora_predict carry their names. For other files: -m RUN, or a file of a raw dataset.

examples:
  samora_export labels preds -o slicer --format seg.nrrd
  samora_export labels preds/CASE.nii.gz -o pacs --format dcm --dicom SERIES_FOLDER
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == [_LABELS]:
        return run(labels_parser(), _export_labels, words[1:])
    return run(model_parser(), _export_model, words)


def model_parser() -> CommandParser:
    """The options of a model's export."""
    parser = CommandParser(
        "samora_export", "Export a trained run as a model that others can use for prediction.", _MODEL_EPILOG
    )
    parser.add_argument("model", metavar="RUN", help="a run or a fold: its path, its name, or a unique part of it")
    parser.add_argument("-o", dest="output", metavar="OUT", required=True, help="a new folder, or a new FILE.zip")
    parser.add_argument("-f", dest="folds", metavar="FOLD", nargs="+", help="folds (default: all that are finished)")
    parser.add_argument(
        "--without-base", action="store_true", help="exclude the base encoder; it is referenced by digest"
    )
    return parser


def labels_parser() -> CommandParser:
    """The options of an export of label maps."""
    parser = CommandParser("samora_export labels", "Write label maps in the formats of viewers.", _LABELS_EPILOG)
    parser.add_argument("source", type=Path, metavar="IN", help="folder of label maps, or one file")
    parser.add_argument("-o", dest="output", type=Path, metavar="OUT", required=True, help="folder for the files")
    parser.add_argument("--format", choices=_FORMATS, required=True, help="see below")
    parser.add_argument("-m", dest="model", metavar="RUN", help="the run whose labels they are")
    parser.add_argument("--dicom", type=Path, metavar="FOLDER", help="dcm: folder of the segmented DICOM series")
    add_dask(parser)
    return parser


def _export_model(arguments: argparse.Namespace) -> None:
    from samora_pipeline.handover.export import collect, write
    from samora_pipeline.inference.runs import named_run, pick_folds
    from samora_pipeline.paths import resolve_roots

    roots, target = resolve_roots(arguments.root), Path(arguments.output)
    trained = named_run(arguments.model, roots.results)
    export = collect(trained, pick_folds(trained, arguments.folds), roots, with_base=not arguments.without_base)
    write(export, target)
    say(f"{target}: {export.size / 1e6:,.1f} MB, folds {', '.join(export.model.folds)}")
    for base in export.model.bases:
        say(f"  base encoder {base.name}: {'part of it' if base.file else 'NOT part of it'} ({base.why})")
    for warning in export.model.warnings:
        say(f"  warning: {warning}")
    say("  read MODEL_CARD.md and LICENCES.md in it before you hand it on")
    say(f"next, elsewhere: samora_import {target.name}")


def _export_labels(arguments: argparse.Namespace) -> int:
    from samora_pipeline.handover.label_exports import export_labels
    from samora_pipeline.parallel import Engine
    from samora_pipeline.paths import resolve_roots
    from samora_pipeline.registry import shortened

    written, failed = export_labels(
        arguments.source,
        arguments.output,
        arguments.format,
        results=resolve_roots(arguments.root).results,
        report=say,
        model=arguments.model,
        scan=arguments.dicom,
        engine=Engine.of(None, arguments.dask),
    )
    if len(failed) == 1 and not written:
        raise next(iter(failed.values()))
    if failed:
        told = (f"{name}: {error.code} {error.what} ({error.found})" for name, error in failed.items())
        say("failed: " + shortened(told, "\nfailed: "))
    say(f"{arguments.output}: {len(written)} written{f', {len(failed)} failed' if failed else ''}")
    return EXIT_FAILED_CASES if failed else EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
