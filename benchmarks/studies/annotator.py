"""A simulated annotator: true labels are revealed for the slices that are asked for, round by round.

    python -m benchmarks.studies.annotator --root samora_data --work study -d LA --slices 120 120 112 --seeds 0 1 2

Three designs with the same number of labelled slices: ``scans`` (as many whole scans as that makes), ``even`` (all
slices at once, spread over all scans) and ``rounds`` (the first spread, later ones by the entropy of the run before,
which each run starts from). Labels of scored scans are kept. Every command is a process of its own; what is finished is
kept, so that a killed study goes on. Dice and seconds of every run are added to results.jsonl, and
``samora_compare --budgets`` fits the curve over the runs of ``rounds``.
"""

import argparse
import json
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samora_pipeline.contracts.dataset import RawCase, read_dataset
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.labelling import PROPOSAL_ENDING, SCANS_FOLDER
from samora_pipeline.contracts.run import SUMMARY_FILE
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.files import append_text, exclusive
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.segmentations import write_segmentation
from samora_pipeline.imaging.volume import label_array
from samora_pipeline.labelling.scans import read_round
from samora_pipeline.paths import Roots, resolve_roots
from trainers.study.processes import run_command

DESIGNS = ("scans", "even", "rounds")
RESULTS_FILE = "results.jsonl"


@dataclass(frozen=True)
class Study:
    """The dataset with all labels, the folder of the study, and how runs are trained."""

    truth: Path
    work: Path
    slices: tuple[int, ...]
    trainer: tuple[str, ...]

    def root(self, design: str, seed: int) -> Path:
        """The data root of a design: it has its own labels."""
        return self.work / f"{design}_{seed}"


def prepare(study: Study, root: Path) -> Path:
    """Copy the dataset without the labels of its training scans; return the raw folder."""
    raw = root / "raw" / study.truth.name
    if not (raw / "dataset.json").is_file():
        shutil.copytree(study.truth, raw, ignore=shutil.ignore_patterns("labelsTr", ".lock"), dirs_exist_ok=True)
        published = read_dataset(study.truth).ours.published_split
        scored = published.test if published else ()
        for name, case in read_dataset(study.truth).training().items():
            if name in scored and case.label is not None:
                _copy_label(raw, case.label)
    return raw


def _copy_label(raw: Path, label: Path) -> None:
    (raw / "labelsTr").mkdir(exist_ok=True)
    shutil.copyfile(label, raw / "labelsTr" / label.name)


def reveal(folder: Path, truth: dict[str, RawCase]) -> int:
    """Draw the true labels into the proposals of a hand-over folder, asked slices only; return how many slices."""
    record = read_round(folder)
    table = tuple(entry for entry in record.labels if entry.value != record.ignore)
    for name, handed in record.cases.items():
        path = folder / SCANS_FOLDER / name / f"{name}{PROPOSAL_ENDING}"
        proposal, label = read_volume(path), truth[name].label
        if label is None:
            raise ValueError(f"no true labels of {name}")
        asked = np.zeros(proposal.grid.shape, dtype=np.bool_)
        np.moveaxis(asked, handed.axis, 0)[list(record.asked(name))] = True
        drawn = np.where(asked, label_array(read_volume(label)), label_array(proposal)).astype(np.uint8)
        write_segmentation(path, drawn, proposal.grid, table)
    return len(record.slices)


def commands(study: Study, design: str, seed: int) -> Iterator[tuple[str, list[list[str]]]]:
    """The name of each run and its commands in order; an empty command stands for ``reveal`` of the folder so far."""
    root, dataset = study.root(design, seed), study.truth.name
    place = ["--root", str(root)]
    plan = ["samora_plan_and_preprocess", "-d", dataset, "-np", "1", *place]
    steps = study.slices if design == "rounds" else (sum(study.slices),)
    for number, count in enumerate(steps):
        name, folder = f"round_{number}", str(root / f"round_{number}")
        model = ["-m", f"round_{number - 1}"] if number else []
        suggest = ["samora_suggest", dataset, *model, "--slices", str(count), "-o", folder, "--seed", str(seed), *place]
        label = (
            [] if design == "scans" else [suggest, [], ["samora_label", "add", folder, "--accept-unchanged", *place]]
        )
        start = ["--start-from", f"round_{number - 1}"] if number else []
        words = ["samora_train", dataset, study.trainer[0], "full", "--name", name, "--seed", str(seed), "-c"]
        yield name, [plan, *label, plan, [*words, *start, *study.trainer[1:], *place]]


def run_design(study: Study, design: str, seed: int, lock: int) -> None:
    """Run one design with one seed; runs that are in the results are passed over."""
    root, truth = study.root(design, seed), read_dataset(study.truth).training()
    raw, finished, known = prepare(study, root), 0, _results(study)
    if design == "scans":
        finished = _whole_scans(raw, truth, sum(study.slices), seed)
    for name, words in commands(study, design, seed):
        begun, folder = time.monotonic(), root / name
        if (design, seed, name) in known:
            finished = known[design, seed, name]
            continue
        for command in words:
            done = command[:1] == ["samora_suggest"] and (folder / "round.json").is_file()
            if not command:
                finished += reveal(folder, truth)
            elif not done:
                ended = run_command(command, study.work / f"{design}_{seed}.log", lock)
                if ended.code:
                    raise SystemExit(f"{' '.join(command)} ended with {ended.code}: {ended.tail}")
        summary = next(root.glob(f"results/*/*__{name}/fold_*/{SUMMARY_FILE}"))
        dice = read_json(Summary, summary).foreground_mean.Dice
        line = {"design": design, "seed": seed, "run": name, "slices": finished, "dice": dice}
        append_text(study.work / RESULTS_FILE, json.dumps({**line, "seconds": time.monotonic() - begun}) + "\n")


def _results(study: Study) -> dict[tuple[str, int, str], int]:
    """The labelled slices of finished runs by design, seed and name."""
    path = study.work / RESULTS_FILE
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {(line["design"], line["seed"], line["run"]): line["slices"] for line in lines}


def _whole_scans(raw: Path, truth: dict[str, RawCase], slices: int, seed: int) -> int:
    """Reveal as many whole scans as hold so many slices, drawn by seed; return how many slices that is."""
    names, total = sorted(truth), 0
    np.random.default_rng(seed).shuffle(names)
    for name in names:
        label = truth[name].label
        if total < slices and label is not None and not (raw / "labelsTr" / label.name).is_file():
            _copy_label(raw, label)
        if total < slices and label is not None:
            total += read_volume(label).grid.shape[2]
    return total


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and return its exit code."""
    parser = argparse.ArgumentParser(prog="annotator", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--root", help="data root with the labelled dataset")
    parser.add_argument("--work", type=Path, required=True, help="folder of the study")
    parser.add_argument("-d", dest="dataset", required=True, help="number or name")
    parser.add_argument("--slices", type=int, nargs="+", required=True, help="slices of each round")
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=DESIGNS)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--train", default="SAMoraTrainer", help="TRAINER and its options, in quotes")
    arguments = parser.parse_args(argv)
    roots: Roots = resolve_roots(arguments.root)
    truth = roots.dataset(arguments.dataset).raw
    study = Study(truth, arguments.work, tuple(arguments.slices), tuple(shlex.split(arguments.train)))
    study.work.mkdir(parents=True, exist_ok=True)
    with exclusive(study.work), (study.work / ".commands").open("w") as lock:
        for seed in arguments.seeds:
            for design in arguments.designs:
                run_design(study, design, seed, lock.fileno())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
