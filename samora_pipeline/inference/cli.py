"""samora_predict: label maps for a folder of images, on their own grids."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from samora_pipeline.command_line import EXIT_FAILED_CASES, EXIT_OK, CommandParser, run, say
from samora_pipeline.errors import UsageError

if TYPE_CHECKING:
    from samora_pipeline.contracts.run import RunConfig
    from samora_pipeline.inference.case import InputCase
    from samora_pipeline.inference.job import CaseFiles
    from samora_pipeline.inference.record import ModelRecord, OutputFolder
    from samora_pipeline.inference.runs import Choice
    from samora_pipeline.paths import Roots

_EPILOG = """\
examples:
  samora_predict -i imagesTs -o preds            the only trained run, on the test images of its dataset
  samora_predict -i scan.nii.gz -o preds --tta   one image, averaged with its mirrored views
  samora_predict -i DICOM_FOLDER -o preds        each DICOM series in the folder, or in the folders below it
  samora_predict --list                          what can predict
  samora_predict -i scans -o preds -m Dataset001_Synapse/SAMoraTrainer__10pct__default -f 0 1
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(_parser(), _predict, argv)


def _parser() -> CommandParser:
    parser = CommandParser("samora_predict", "Segment images with a trained run.", _EPILOG)
    parser.add_argument("-i", dest="images", metavar="IN", help="folder of images or of DICOM series, or one file")
    parser.add_argument("-o", dest="output", metavar="OUT", help="folder for the label maps")
    parser.add_argument("-m", dest="model", metavar="RUN", help="run or fold folder (default: the only trained run)")
    parser.add_argument("-f", dest="folds", metavar="FOLD", nargs="+", help="folds to average (default: all finished)")
    parser.add_argument("--tta", action="store_true", help="average over the mirrored views that training used")
    parser.add_argument("--save-probabilities", action="store_true", help="also write CASE_probabilities.b2nd")
    parser.add_argument(
        "--save-uncertainty", action="store_true", help="also write CASE_uncertainty.nii.gz, in percent"
    )
    parser.add_argument(
        "--no-postprocessing", action="store_true", help="keep all components, whatever the run's training chose"
    )
    parser.add_argument(
        "--continue", dest="resume", action="store_true", help="skip cases that are complete and made the same way"
    )
    parser.add_argument("--shard", metavar="i/n", help="predict the i-th of n shares, for several machines")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--fp32", action="store_true", help="single precision (default: bf16 where the device has it)")
    parser.add_argument("--batch", type=_count, metavar="N", help="slices per step (default: what suits the device)")
    parser.add_argument("--allow-code", action="store_true", help="accept a run with parts named package.module:X")
    parser.add_argument("--list", action="store_true", help="list the trained runs and stop")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of slices")
    return int(text)


def _predict(arguments: argparse.Namespace) -> int:
    from samora_pipeline.inference.allocation import keep_freed_memory

    keep_freed_memory()
    from samora_pipeline.contracts.run import CONFIG_FILE
    from samora_pipeline.contracts.run_reader import read_run_config
    from samora_pipeline.files import sweep
    from samora_pipeline.inference.cases import find_cases, own_share, parse_shard, refuse_overwriting
    from samora_pipeline.inference.record import OutputFolder
    from samora_pipeline.inference.runs import choose
    from samora_pipeline.paths import resolve_roots

    roots = resolve_roots(arguments.root)
    if arguments.list:
        return _list(roots, allow_code=arguments.allow_code)
    _require_folders(arguments)
    shard = parse_shard(arguments.shard)
    choice = choose(arguments.model, arguments.folds, Path(arguments.images), roots)
    config = read_run_config(choice.fold_folders[0] / CONFIG_FILE, allow_code=arguments.allow_code)
    for line in (f"root: {roots.root} ({roots.origin})", *choice.remarks, *(f"stamp: {s}" for s in config.stamps)):
        say(line)
    folder = Path(arguments.output)
    all_cases = find_cases(choice.images, config.plans.channel_names)
    refuse_overwriting(choice.images, folder)
    cases = _with_files(own_share(all_cases, shard), folder, arguments)
    output = OutputFolder(folder, _model_record(choice, config, arguments), shard, resume=arguments.resume)
    output.refuse_strange(path for _, files in cases for path in files.paths)
    done = {case.name for case, files in cases if output.finished(case.name, case.channels, files.paths)}
    to_do = [(case, files) for case, files in cases if case.name not in done]
    if shard[1] == 1:
        # Another share may be writing here, and its temporary files are not ours to remove.
        sweep(folder)
    failed = _predict_cases(arguments, choice, config, output, to_do, done, roots.weights) if to_do else 0
    _summarize(output, len(to_do) - failed, len(done), failed)
    return EXIT_FAILED_CASES if failed else EXIT_OK


def _list(roots: Roots, *, allow_code: bool) -> int:
    from samora_pipeline.inference.listing import list_runs
    from samora_pipeline.inference.runs import find_runs

    runs = find_runs(roots.results)
    for line in list_runs(runs, allow_code=allow_code) if runs else [f"no trained run under {roots.results}"]:
        say(line)
    return EXIT_OK


def _require_folders(arguments: argparse.Namespace) -> None:
    missing = [flag for flag, value in (("-i", arguments.images), ("-o", arguments.output)) if not value]
    if missing:
        raise UsageError("E-ARG-13", missing=" and ".join(missing), found="a command without them")


def _with_files(
    cases: list[InputCase], folder: Path, arguments: argparse.Namespace
) -> list[tuple[InputCase, CaseFiles]]:
    from samora_pipeline.inference.job import output_files

    wanted = {"probabilities": arguments.save_probabilities, "uncertainty": arguments.save_uncertainty}
    return [(case, output_files(case, folder, **wanted)) for case in cases]


def _predict_cases(
    arguments: argparse.Namespace,
    choice: Choice,
    config: RunConfig,
    output: OutputFolder,
    cases: list[tuple[InputCase, CaseFiles]],
    done: set[str],
    weights: Path,
) -> int:
    """Load the model, predict ``cases`` and return how many failed."""
    from samora_pipeline.inference.job import predict_cases
    from samora_pipeline.inference.predictor import Predictor
    from samora_pipeline.inference.record import prediction_record

    predictor = Predictor.load(
        choice.run.folder,
        folds=choice.folds,
        weights_folder=weights,
        device=arguments.device,
        precision="fp32" if arguments.fp32 else "auto",
        batch_size=arguments.batch,
        tta=arguments.tta,
        postprocessing=not arguments.no_postprocessing,
        allow_code=arguments.allow_code,
    )
    arithmetic = predictor.arithmetic
    say(f"device: {predictor.device}, {arithmetic.name} ({arithmetic.why}), {predictor.batch_size} slices per step")
    if output.model.largest_component:
        say(f"largest component only: {', '.join(output.model.largest_component)}  (--no-postprocessing keeps all)")
    output.start(prediction_record(predictor, output.model, config), done, [case.name for case, _ in cases])
    failures = predict_cases(predictor, cases, output)
    output.write_failures(failures)
    for name, failure in failures.items():
        say(f"failed: {name}: {failure.code} {failure.what} ({failure.found})")
    return len(failures)


def _model_record(choice: Choice, config: RunConfig, arguments: argparse.Namespace) -> ModelRecord:
    from samora_pipeline.inference.record import model_record

    return model_record(
        choice.run.folder,
        {name: choice.run.folds[name] for name in choice.folds},
        config.base_digest,
        tta=arguments.tta,
        postprocessing=not arguments.no_postprocessing,
        save_probabilities=arguments.save_probabilities,
        save_uncertainty=arguments.save_uncertainty,
    )


def _summarize(output: OutputFolder, new: int, skipped: int, failed: int) -> None:
    parts = [f"{new} predicted"]
    if skipped:
        parts.append(f"{skipped} were complete already")
    if failed:
        parts.append(f"{failed} failed, see {output.failures_path}")
    say(f"{output.folder}: {', '.join(parts)}")


if __name__ == "__main__":
    raise SystemExit(main())
