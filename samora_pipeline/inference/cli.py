"""samora_predict: label maps for a folder of images, on their own grids."""

import argparse

from samora_pipeline.command_line import EXIT_OK, CommandParser, add_dask, add_precision, run, say
from samora_pipeline.errors import UsageError

_EPILOG = """\
examples:
  samora_predict -i imagesTs -o preds            the only trained run, on the test images of its dataset
  samora_predict -i scan.nii.gz -o preds --tta   one image, averaged with its mirrored views
  samora_predict -i DICOM_FOLDER -o preds        each DICOM series in the folder and in all folders below it
  samora_predict -i PICTURES -o preds -m M.zip   pictures, with an exported model that is not installed
  samora_predict --list                          list the trained models
  samora_predict -i scans -o preds -m SAMoraTrainer__10pct -f 0 1     any part of a run's name that no other has
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(build_parser(), predict_command, argv)


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser("samora_predict", "Segment images with a trained run.", _EPILOG)
    parser.add_argument("-i", dest="images", metavar="IN", help="folder of images or of DICOM series, or one file")
    parser.add_argument("-o", dest="output", metavar="OUT", help="folder for the label maps")
    parser.add_argument("-m", dest="model", metavar="RUN", help="a run, by any part of its name, or an exported M.zip")
    parser.add_argument("-d", dest="dataset", metavar="D", help="number or name of the run's dataset")
    parser.add_argument("-f", dest="folds", metavar="FOLD", nargs="+", help="folds to average (default: all finished)")
    parser.add_argument("--tta", action="store_true", help="average over the mirrored views that training used")
    parser.add_argument("--save-probabilities", action="store_true", help="also write CASE_probabilities.b2nd")
    parser.add_argument(
        "--save-uncertainty", action="store_true", help="also write CASE_uncertainty.nii.gz, in percent"
    )
    parser.add_argument(
        "--no-postprocessing", action="store_true", help="keep all components; ignore the run's post-processing"
    )
    parser.add_argument(
        "--continue", dest="resume", action="store_true", help="skip cases that are complete and made the same way"
    )
    # As nnU-Net has it.
    parser.add_argument("--c", "--continue-prediction", dest="resume", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--shard", metavar="i/n", help="predict the i-th of n shares, for several machines")
    add_dask(parser)
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    add_precision(parser)
    parser.add_argument(
        "--fp32", dest="precision", action="store_const", const="fp32", help="the same as --precision fp32"
    )
    parser.add_argument("--batch", type=_count, metavar="N", help="slices per step (default: chosen for the device)")
    parser.add_argument("--allow-code", action="store_true", help="accept a run with parts named package.module:X")
    parser.add_argument("--list", action="store_true", help="list the trained runs and stop")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of slices")
    return int(text)


def predict_command(arguments: argparse.Namespace) -> int:
    """Run the command on its parsed arguments; return its exit code."""
    from samora_pipeline.inference.allocation import keep_freed_memory

    if arguments.list:
        return _list(arguments)
    missing = [flag for flag, value in (("-i", arguments.images), ("-o", arguments.output)) if not value]
    if missing:
        raise UsageError("E-ARG-13", missing=" and ".join(missing), found="a command without them")
    keep_freed_memory()
    from samora_pipeline.inference.job import predict

    return predict(arguments)


def _list(arguments: argparse.Namespace) -> int:
    from samora_pipeline.inference.runs import find_runs, list_runs
    from samora_pipeline.paths import resolve_roots

    results = resolve_roots(arguments.root).results
    runs = find_runs(results)
    for line in list_runs(runs, allow_code=arguments.allow_code) if runs else [f"no trained run under {results}"]:
        say(line)
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
