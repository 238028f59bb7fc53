"""``samora_convert``: from any supported source to a raw dataset in nnU-Net's layout."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_conversion.catalogue import CONVERTERS, find_converter, load_converters
from samora_pipeline.command_line import EXIT_FAILED_CASES, CommandParser, add_dask, run, say
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.paths import DatasetFolder, Roots, resolve_roots

if TYPE_CHECKING:
    from dataset_conversion.converter import Converter
    from dataset_conversion.survey import ConversionReport, Identity, Survey

# Lower numbers are the homes of public datasets.
FIRST_FREE_NUMBER = 100
_SHOWN_FAULTS = 10
_FOLDER = "Folder"
"""the converter of any folders"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``samora_convert`` and return its exit code: 3 when cases were skipped, 4 when nothing could be made."""
    parser, arguments = parser_for(list(sys.argv[1:] if argv is None else argv))
    return run(parser, _command, arguments)


def parser_for(words: list[str]) -> tuple[CommandParser, list[str]]:
    """The parser with the options of the converter that the words name, and the words with ``-d`` among them."""
    arguments = _own_folders(words) or words
    token = _named(arguments)
    converter = None
    if token is not None:
        try:
            converter = find_converter(token)
        except UsageError:
            # Without a converter its options cannot be judged; the command then says which names there are.
            arguments = ["-d", token]
    return _parser(converter), arguments


def _parser(converter: Converter | None) -> CommandParser:
    """The parser, with the options of the converter that ``-d`` names (every converter has its own)."""
    names = ", ".join(CONVERTERS.names())
    parser = CommandParser(
        "samora_convert",
        "Convert a source of scans to a raw dataset in nnU-Net's layout (dataset.json, imagesTr, labelsTr, ...).",
        epilog=f"your own scans: samora_convert IMAGES LABELS --name MyData --label-names liver tumour\n"
        f"converters: {names}; -d list  prints one line for each, -d list NAME  the files that one expects, "
        "-d NAME --help  which options it takes",
    )
    _add_common(parser)
    if converter is not None:
        converter.add_options(parser.add_argument_group(f"options of {converter.name}"))
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="DIR",
        help="your own scans: a folder of images and one of label maps, or one of both",
    )
    parser.add_argument("-d", "--dataset", metavar="NAME", help="a converter, or list")
    parser.add_argument("-i", "--source", metavar="DIR", help="folder of the source (default ROOT/downloads/NAME)")
    parser.add_argument(
        "--id", type=int, metavar="N", help="dataset ID (default: the reserved ID, else the next free one)"
    )
    parser.add_argument("-np", dest="workers", type=int, metavar="N", help="cases at a time (default 1)")
    add_dask(parser)
    parser.add_argument("--dry-run", action="store_true", help="print what would be written, and write nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of this name")
    adopted = "cases (or all) whose labels get the header of their image; inspect the overlay images first"
    parser.add_argument("--adopt-image-header", nargs="+", metavar="CASE", default=[], help=adopted)


def _own_folders(argv: list[str]) -> list[str]:
    """What ``IMAGES [LABELS] ...`` without ``-d`` stands for; empty where it is not that."""
    folders = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))[:2]
    if not folders or any(word in ("-d", "--dataset") or word.startswith("--dataset=") for word in argv):
        return []
    named = [
        word for option, folder in zip(("--images", "--labels"), folders, strict=False) for word in (option, folder)
    ]
    return ["-d", _FOLDER, *named, *argv[len(folders) :]]


def _named(argv: list[str]) -> str | None:
    """The value of ``-d`` before the options that depend on it are known."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("-d", "--dataset")
    try:
        found, _ = finder.parse_known_args(argv)
    except argparse.ArgumentError:
        return None
    return None if found.dataset in (None, "list") else str(found.dataset)


def _command(arguments: argparse.Namespace) -> int:
    if arguments.dataset == "list":
        _say_converters(arguments.folders)
        return 0
    _, skipped = convert_source(arguments)
    return EXIT_FAILED_CASES if skipped else 0


def convert_source(arguments: argparse.Namespace) -> tuple[Path, int]:
    """Convert what the arguments say; return the dataset's folder and the number of skipped cases."""
    if arguments.dataset is None or arguments.folders:
        raise UsageError("E-ARG-19", found=" ".join(arguments.folders) or "neither -d nor a folder")
    from samora_pipeline.parallel import Engine

    arguments.engine = Engine.of(arguments.workers, arguments.dask)
    converter = find_converter(arguments.dataset)
    roots = resolve_roots(arguments.root)
    say(f"root {roots.root} ({roots.origin})")
    token = converter.name if ":" in arguments.dataset else arguments.dataset
    source = Path(arguments.source) if arguments.source else roots.root / "downloads" / token
    if converter.needs_source and not source.is_dir():
        raise converter.missing_source(source, f"no folder {source}")
    if joined := converter.joins(arguments):
        dataset = roots.dataset(joined)
    else:
        identity = converter.identify(token, source, arguments)
        dataset = choose_dataset(roots, identity, arguments.id, arguments.overwrite)
    if converter.needs_source:
        _keep_apart(source, dataset)
    if arguments.dry_run:
        _say_survey(converter.survey(source, arguments), dataset)
        return dataset.raw, 0
    report = converter.convert(source, dataset.raw, arguments)
    _say_report(report, dataset)
    return dataset.raw, len(report.skipped)


def choose_dataset(roots: Roots, identity: Identity, number: int | None, overwrite: bool) -> DatasetFolder:
    """Say where a dataset goes: the number asked for, else its present one, else its home, else the first free one.

    Raises:
        UsageError: ``E-ID-01`` a number that is taken or out of range.
        DataError: ``E-OUT-03`` a dataset of this name is there and ``overwrite`` is off.
    """
    present = roots.datasets()
    twin = next((folder for folder in present if folder.name == identity.name), None)
    if twin is not None and (not overwrite or number not in (None, twin.number)):
        expected = "a new name, or --overwrite" if number in (None, twin.number) else f"its number {twin.number}"
        raise DataError("E-OUT-03", identity=identity, twin=twin, found=str(twin.raw), expected=expected)
    taken = {folder.number: folder.folder_name for folder in present if folder is not twin}
    free = next(candidate for candidate in range(FIRST_FREE_NUMBER, 10_000) if candidate not in taken)
    if number is not None and (number in taken or not 0 <= number <= 999):
        raise UsageError("E-ID-01", number=number, free=free, found=taken.get(number, f"the number {number}"))
    usual = twin.number if twin is not None else identity.home
    if number is None:
        number = free if usual is None or usual in taken else usual
    return DatasetFolder(number, identity.name, roots.raw / DatasetFolder(number, identity.name, roots.raw).folder_name)


def _keep_apart(source: Path, dataset: DatasetFolder) -> None:
    """Refuse to write a dataset over, into or around its own source."""
    here, there = source.resolve(), dataset.raw.resolve()
    if here == there or here in there.parents or there in here.parents:
        adopted = f"samora_plan_and_preprocess -d {dataset.number}  needs no conversion"
        fix = adopted if here == there else "choose another --root or another source"
        raise UsageError("E-SRC-05", found=f"{source} and {dataset.raw}", fix=fix)


def _say_converters(names: Sequence[str]) -> None:
    """A line for each converter, or everything that the named ones state."""
    from dataset_conversion.facts import as_lines

    for converter in map(find_converter, names):
        for line in as_lines(converter):
            say(line)
        say()
    if not names:
        known = load_converters()
        width = max(len(converter.name) for converter in known)
        for converter in known:
            say(f"{converter.name:<{width}}  {converter.summary}")
        say(
            "samora_convert -d list NAME  tells all of one; samora_convert IMAGES LABELS --name MyData  takes any scans"
        )


def _say_survey(survey: Survey, dataset: DatasetFolder) -> None:
    say(f"{dataset.folder_name}  would be written to {dataset.raw}")
    say(f"  {survey.count('Tr')} training, {survey.count('Ts')} test, {survey.count('Un')} unlabelled cases")
    labels = ", ".join(f"{value} {name}" for name, value in survey.description.labels.items())
    say(f"  channels {', '.join(survey.description.channel_names.values())}; labels {labels}")
    for note in survey.notes:
        say(f"  note: {note}")
    say("nothing was written (--dry-run)")


def _say_report(report: ConversionReport, dataset: DatasetFolder) -> None:
    say(f"{dataset.folder_name}  id {dataset.number}  in {dataset.raw}")
    say(f"  {report.training} training, {report.test} test, {report.unlabelled} unlabelled cases")
    for note in report.notes:
        say(f"  note: {note}")
    if report.skipped:
        say(f"  skipped: {len(report.skipped)} cases (all in {dataset.raw / 'conversion.json'})")
        for fault in report.skipped[:_SHOWN_FAULTS]:
            say(f"    {fault.case}: {fault.code} {fault.reason}")
    say(f"next: samora_plan_and_preprocess -d {dataset.number}")


if __name__ == "__main__":
    raise SystemExit(main())
