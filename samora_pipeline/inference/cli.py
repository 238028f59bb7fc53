"""samora_predict: label maps for a folder of images, on their own grids."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from samora_pipeline.command_line import EXIT_FAILED_CASES, EXIT_OK, CommandParser, run, say

if TYPE_CHECKING:
    from samora_pipeline.contracts.run import RunConfig
    from samora_pipeline.inference.cases import InputCase
    from samora_pipeline.inference.record import ModelRecord, OutputFolder
    from samora_pipeline.inference.runs import Choice

_EPILOG = """\
examples:
  samora_predict -i imagesTs -o preds            the only trained run, on the test images of its dataset
  samora_predict -i scan.nii.gz -o preds --tta   one image, averaged with its mirrored views
  samora_predict -i scans -o preds -m Dataset001_Synapse/SAMoraTrainer__10pct__default -f 0 1
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(_parser(), _predict, argv)


def _parser() -> CommandParser:
    parser = CommandParser("samora_predict", "Segment images with a trained run.", _EPILOG)
    parser.add_argument("-i", dest="images", metavar="IN", required=True, help="folder of images, or one image")
    parser.add_argument("-o", dest="output", metavar="OUT", required=True, help="folder for the label maps")
    parser.add_argument("-m", dest="model", metavar="RUN", help="run or fold folder (default: the only trained run)")
    parser.add_argument("-f", dest="folds", metavar="FOLD", nargs="+", help="folds to average (default: all finished)")
    parser.add_argument("--tta", action="store_true", help="average over the mirrored views that training used")
    parser.add_argument("--save-probabilities", action="store_true", help="also write CASE_probabilities.b2nd")
    parser.add_argument(
        "--continue", dest="resume", action="store_true", help="skip cases that are complete and made the same way"
    )
    parser.add_argument("--shard", metavar="i/n", help="predict the i-th of n shares, for several machines")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--batch", type=_count, metavar="N", help="slices per step (default: the plan's)")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of slices")
    return int(text)


def _predict(arguments: argparse.Namespace) -> int:
    from samora_pipeline.contracts.json_io import read_json
    from samora_pipeline.contracts.run import CONFIG_FILE, RunConfig
    from samora_pipeline.files import sweep
    from samora_pipeline.inference.cases import find_cases, own_share, parse_shard, refuse_overwriting
    from samora_pipeline.inference.job import output_files
    from samora_pipeline.inference.record import OutputFolder
    from samora_pipeline.inference.runs import choose
    from samora_pipeline.paths import resolve_roots

    roots = resolve_roots(arguments.root)
    shard = parse_shard(arguments.shard)
    choice = choose(arguments.model, arguments.folds, Path(arguments.images), roots)
    config = read_json(RunConfig, choice.fold_folders[0] / CONFIG_FILE)
    for line in (f"root: {roots.root} ({roots.origin})", *choice.remarks, *(f"stamp: {s}" for s in config.stamps)):
        say(line)
    folder = Path(arguments.output)
    all_cases = find_cases(choice.images, config.plans.channel_names)
    refuse_overwriting(choice.images, folder)
    cases = own_share(all_cases, shard)
    output = OutputFolder(folder, _model_record(choice, config, arguments), shard, resume=arguments.resume)
    files = {case.name: output_files(case, folder, arguments.save_probabilities) for case in cases}
    output.refuse_strange(path for paths in files.values() for path in paths)
    done = {case.name for case in cases if output.finished(case.name, case.channels, files[case.name])}
    to_do = [case for case in cases if case.name not in done]
    if shard[1] == 1:
        # Another share may be writing here, and its temporary files are not ours to remove.
        sweep(folder)
    failed = _predict_cases(arguments, choice, config, output, to_do, done, roots.weights) if to_do else 0
    _summarize(output, len(to_do) - failed, len(done), failed)
    return EXIT_FAILED_CASES if failed else EXIT_OK


def _predict_cases(
    arguments: argparse.Namespace,
    choice: Choice,
    config: RunConfig,
    output: OutputFolder,
    cases: list[InputCase],
    done: set[str],
    weights: Path,
) -> int:
    """Load the model, predict ``cases`` and return how many failed."""
    from samora_pipeline.inference.device import pick_device
    from samora_pipeline.inference.job import predict_cases
    from samora_pipeline.inference.predictor import Predictor
    from samora_pipeline.inference.record import PredictionRecord
    from samora_pipeline.reproducibility import snapshot

    device = pick_device(arguments.device)
    predictor = Predictor.load(
        choice.fold_folders, weights_folder=weights, device=device, batch_size=arguments.batch, tta=arguments.tta
    )
    record = PredictionRecord(output.model, config.dataset, str(device), config.stamps, snapshot())
    output.start(record, done, [case.name for case in cases])
    failures = predict_cases(predictor, cases, output, save_probabilities=arguments.save_probabilities)
    output.write_failures(failures)
    for name, failure in failures.items():
        say(f"failed: {name}: {failure.code} {failure.what} ({failure.found})")
    return len(failures)


def _model_record(choice: Choice, config: RunConfig, arguments: argparse.Namespace) -> ModelRecord:
    from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT
    from samora_pipeline.files import digest_file
    from samora_pipeline.inference.record import ModelRecord

    folds = {name: choice.run.folds[name] for name in choice.folds}
    return ModelRecord(
        run=str(choice.run.folder),
        folds=choice.folds,
        configs={name: digest_file(folder / CONFIG_FILE) for name, folder in folds.items()},
        checkpoints={name: digest_file(folder / FINAL_CHECKPOINT) for name, folder in folds.items()},
        base=config.base.digest,
        tta=arguments.tta,
        save_probabilities=arguments.save_probabilities,
    )


def _summarize(output: OutputFolder, new: int, skipped: int, failed: int) -> None:
    parts = [f"{new} predicted"]
    if skipped:
        parts.append(f"{skipped} were complete already")
    if failed:
        parts.append(f"{failed} failed, see {output.failures_path}")
    say(f"{output.folder}: {', '.join(parts)}")
