"""Robustness of trained runs: their scored scans in five levels each of noise, blur and lower resolution.

    python -m benchmarks.studies.robustness --root STUDY Dataset002_LA/RUN Dataset002_LA/RUN

Uses samora_predict and samora_evaluate; goes on after any interruption. Degraded scans are made when they are needed
and removed afterwards. Everything is written to STUDY/study/robustness: scores per run, kind and level, a table and
a picture.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.studies.degradation import KINDS, LEVELS, STRENGTHS, Kind
from samora_pipeline.command_line import CommandParser, run, say
from samora_pipeline.errors import DataError, FailedCasesError

if TYPE_CHECKING:
    from samora_pipeline.contracts.dataset import RawDataset
    from samora_pipeline.evaluation.run_scores import ScoredRun
    from samora_pipeline.reporting.text_tables import TextTable
    from trainers.study.processes import Launch


@dataclass(frozen=True)
class Condition:
    """One kind of degradation at one level."""

    kind: Kind
    level: int

    @property
    def name(self) -> str:
        """The folder of its results."""
        return f"{self.kind}_{self.level}"


def build_parser() -> CommandParser:
    """The options."""
    parser = CommandParser("robustness", "Score trained runs on degraded scans.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="scored runs of one dataset and fold")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    parser.add_argument("--levels", nargs="+", type=int, choices=LEVELS, default=list(LEVELS), help="default: 1 to 5")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default 0)")
    parser.add_argument("--device", metavar="D", help="as in samora_predict")
    return parser


def main(argv: Sequence[str] | None = None, launch: Launch | None = None) -> int:
    """Entry point."""
    return run(build_parser(), lambda arguments: measure(arguments, launch), None if argv is None else list(argv))


def measure(arguments: argparse.Namespace, launch: Launch | None = None) -> None:
    """Predict and score what is missing, then write the table and the picture.

    Raises:
        DataError: ``E-STUDY-13`` runs of several datasets or folds. FailedCasesError: ``E-STUDY-14`` a command failed.
    """
    from samora_pipeline.contracts.dataset import read_dataset
    from samora_pipeline.evaluation.run_scores import distinct_labels, read_run
    from samora_pipeline.files import write_text
    from samora_pipeline.paths import resolve_roots
    from samora_pipeline.reporting.text_tables import csv, markdown
    from trainers.study.processes import spawn
    from trainers.study.state import held

    roots = resolve_roots(arguments.root)
    runs = distinct_labels([read_run(place, roots.results) for place in arguments.runs])
    raw = read_dataset(roots.dataset(_one_dataset(runs)).raw)
    study = roots.root / "study"
    folder = study / "robustness"
    conditions = [Condition(kind, level) for kind in arguments.kinds for level in arguments.levels]
    with held(study) as lock:
        for condition in conditions:
            _condition(condition, runs, raw, folder, arguments, lock, launch or spawn)
    table = robustness_table(runs, conditions, folder)
    write_text(folder / "robustness.md", markdown(table))
    write_text(folder / "robustness.csv", csv(table))
    _draw(folder / "robustness.png", runs, conditions, folder, table.warnings)
    say(markdown(table))


def degraded_scans(
    raw: RawDataset, cases: Sequence[str], axis: str, condition: Condition, seed: int, folder: Path
) -> Iterator[Path]:
    """Write the channels of ``cases``, degraded, and yield their paths. Noise differs between cases and channels."""
    from typing import cast

    from benchmarks.studies.degradation import degrade
    from samora_pipeline.contracts.plans import SliceAxis
    from samora_pipeline.imaging.files import read_volume, write_volume
    from samora_pipeline.imaging.volume import slice_geometry
    from samora_pipeline.reproducibility import derived_seed

    found = raw.training() | raw.test()
    for name in cases:
        for channel, source in enumerate(found[name].channels):
            volume = read_volume(source)
            permutation = slice_geometry(volume.grid, cast("SliceAxis", axis)).permutation
            worse = degrade(
                volume.array,
                condition.kind,
                condition.level,
                spacing=(volume.grid.spacing if raw.ours.spacing_known else None) or (1.0, 1.0, 1.0),
                plane=(permutation[1], permutation[2]),
                seed=derived_seed(seed, name, channel),
            )
            write_volume(folder / source.name, worse, volume.grid)
            yield folder / source.name


def robustness_table(runs: Sequence[ScoredRun], conditions: Sequence[Condition], folder: Path) -> TextTable:
    """Mean Dice (protocol ``physical``) of each run on clean scans and at each level of each kind."""
    from samora_pipeline.reporting.text_tables import TextTable, shared_flags

    levels = sorted({condition.level for condition in conditions})
    rows = []
    for one in runs:
        for kind in dict.fromkeys(condition.kind for condition in conditions):
            values = [_dice(summary_path(folder, Condition(kind, level), one)) for level in levels]
            rows.append((one.label, kind, *(_text(value) for value in (_clean(one), *values))))
    strengths = [f"{kind}: {', '.join(f'{value:g}' for value in STRENGTHS[kind])}" for kind in KINDS]
    notes = (
        f"mean over {runs[0].summary.n} scans and their labels, protocol physical",
        f"levels 1 to 5 are, in shares of the range (noise), mm (blur) and pixels: {'; '.join(strengths)}",
    )
    header = ("run", "kind", "clean", *(f"level {level}" for level in levels))
    return TextTable("robustness", "Dice on degraded scans", header, tuple(rows), notes, shared_flags(runs))


def summary_path(folder: Path, condition: Condition, run: ScoredRun) -> Path:
    """The scores of a run under a condition."""
    return folder / condition.name / run.label.replace("/", "__") / "summary.json"


def _condition(
    condition: Condition,
    runs: Sequence[ScoredRun],
    raw: RawDataset,
    folder: Path,
    arguments: argparse.Namespace,
    lock: int,
    launch: Launch,
) -> None:
    missing = [run for run in runs if not summary_path(folder, condition, run).is_file()]
    if not missing:
        return
    images, labels = folder / condition.name / "images", folder / "labels"
    config = runs[0].config
    _link_labels(raw, config.scored, labels)
    for _ in degraded_scans(raw, config.scored, config.plans.slice_axis.value, condition, arguments.seed, images):
        pass
    log = folder / f"{condition.name}.log"
    root = ["--root", arguments.root] if arguments.root else []
    device = ["--device", arguments.device] if arguments.device else []
    for one in missing:
        output = summary_path(folder, condition, one).parent
        places = ["-i", str(images), "-o", str(output), "-m", str(_run_folder(one)), "-f", *one.folds]
        _command(["samora_predict", *places, "--continue", *root, *device], log, lock, launch)
        description = str(raw.folder / "dataset.json")
        _command(
            ["samora_evaluate", "-g", str(labels), "-p", str(output), "--labels", description, *root], log, lock, launch
        )
        for prediction in output.glob(f"*{raw.description.file_ending}"):
            prediction.unlink()
        say(f"{condition.name}  {one.label}: Dice {_text(_dice(output / 'summary.json'))} (clean {_text(_clean(one))})")
    shutil.rmtree(images)


def _command(words: list[str], log: Path, lock: int, launch: Launch) -> None:
    from trainers.study.processes import run_command

    ended = run_command(words, log, lock, launch)
    if ended.code != 0:
        raise FailedCasesError(
            "E-STUDY-14",
            f"{words[0]} failed on degraded scans",
            found=f"exit code {ended.code}: {ended.tail}",
            expected="all scans predicted and scored",
            fix=f"see {log}, then run the same command again",
        )


def _one_dataset(runs: Sequence[ScoredRun]) -> str:
    found = list(dict.fromkeys((run.config.dataset, *run.folds) for run in runs))
    if len(found) > 1 or len(runs[0].folds) > 1:
        raise DataError(
            "E-STUDY-13",
            "these runs do not score the same scans",
            found="; ".join(" ".join(words) for words in found),
            expected="runs of one dataset with one fold",
            fix="name the fold folders of one fold",
        )
    return runs[0].config.dataset


def _run_folder(run: ScoredRun) -> Path:
    return run.folder.parent if run.folder.name.startswith("fold_") else run.folder


def _link_labels(raw: RawDataset, cases: Sequence[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found = raw.training() | raw.test()
    for name in cases:
        label = found[name].label
        if label is not None and not (folder / label.name).is_symlink():
            (folder / label.name).symlink_to(label.resolve())


def _dice(summary: Path) -> float | None:
    from samora_pipeline.contracts.json_io import read_json
    from samora_pipeline.contracts.scores import Summary

    return read_json(Summary, summary).foreground_mean.Dice


def _clean(run: ScoredRun) -> float | None:
    return run.summary.foreground_mean.Dice


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _draw(
    path: Path, runs: Sequence[ScoredRun], conditions: Sequence[Condition], folder: Path, warnings: Sequence[str]
) -> None:
    """One panel per kind, one line per run, from clean scans to the highest level."""
    from matplotlib.figure import Figure

    from samora_pipeline.files import atomic_path

    kinds = list(dict.fromkeys(condition.kind for condition in conditions))
    levels = sorted({condition.level for condition in conditions})
    figure = Figure(figsize=(4.2 * len(kinds), 4.2), dpi=130, layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for one in runs:
            values = [_clean(one), *(_dice(summary_path(folder, Condition(kind, level), one)) for level in levels)]
            known = [(level, value) for level, value in zip((0, *levels), values, strict=True) if value is not None]
            axes.plot([level for level, _ in known], [value for _, value in known], marker="o", label=one.label)
        axes.set_title(kind)
        axes.set_xlabel("level (0: clean)")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("mean Dice")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8, frameon=False)
    if warnings:
        figure.suptitle(" | ".join(warnings), weight="bold")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


if __name__ == "__main__":
    sys.exit(main())
