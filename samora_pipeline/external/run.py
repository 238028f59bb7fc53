"""A run of an outside program: exactly the labels of a split go in, label maps come out and are scored by our code.

What it leaves is a run folder like any other's but for weights: config.json, validation/, summary.json, timing.json.
"""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from samora_pipeline.contracts.dataset import RawCase, RawDataset, read_dataset, write_dataset
from samora_pipeline.contracts.fingerprint import FINGERPRINT_FILE, Fingerprint
from samora_pipeline.contracts.json_io import read_json, to_plain, write_json
from samora_pipeline.contracts.leakage import protected_names, training_leaks
from samora_pipeline.contracts.model_spec import ModuleSpec
from samora_pipeline.contracts.plans import PLANS_FILE, Plans
from samora_pipeline.contracts.run import (
    CONFIG_FILE,
    PHANTOM_FLAG,
    SUMMARY_FILE,
    TRAINING_FLAG,
    VALIDATION_FOLDER,
    PoolRecord,
    RunConfig,
    StageRecord,
)
from samora_pipeline.contracts.run_folders import FOLD_PREFIX
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.contracts.scores import NSD_TOLERANCE, Summary
from samora_pipeline.contracts.splits import SPLITS_FILE, Fold, Selection, Splits, select
from samora_pipeline.contracts.stored_case import SLICES_FOLDER, read_stored_case
from samora_pipeline.contracts.timing import TIMING_FILE, StageTiming, Timing
from samora_pipeline.errors import DataError, FailedCasesError
from samora_pipeline.evaluation.scoring import CaseFiles, Rules, score_files
from samora_pipeline.evaluation.summary import label_names, summarize
from samora_pipeline.evaluation.tables import write_summary
from samora_pipeline.external.runner import Runner, Words, Workplace
from samora_pipeline.imaging.files import read_volume, write_labels
from samora_pipeline.imaging.volume import labels_to_slices, slice_geometry, to_raw_grid
from samora_pipeline.paths import Roots
from samora_pipeline.registry import shortened
from samora_pipeline.run_log import logger

STAGE = "external"
LOG_FILE = "external.log"
_SIZE = 224
"""pixels along a side that the record of a program without one has"""
_LAST_LINES = 5


@dataclass(frozen=True)
class ExternalRun:
    """A program on one fold of a dataset with one selection of labels."""

    runner: Runner
    roots: Roots
    dataset: str
    split: str
    fold_name: str | None = None
    seed: int = 0
    name: str = "default"

    @cached_property
    def raw(self) -> RawDataset:
        """The raw dataset."""
        return read_dataset(self.roots.dataset(self.dataset).raw)

    @cached_property
    def prepared(self) -> Path:
        """The folder of the planned dataset.

        Raises:
            DataError: ``E-PLAN-01`` it was never planned.
        """
        place = self.roots.dataset(self.dataset)
        folder = self.roots.preprocessed / place.folder_name
        if missing := [name for name in (PLANS_FILE, SPLITS_FILE) if not (folder / name).is_file()]:
            raise DataError("E-PLAN-01", place=place, found=f"no {', '.join(missing)} in {folder}")
        return folder

    @cached_property
    def splits(self) -> Splits:
        """The folds and the selections of labels."""
        return read_json(Splits, self.prepared / SPLITS_FILE)

    @cached_property
    def fold(self) -> Fold:
        """The training cases and those that are scored."""
        return self.splits.fold(self.fold_name or self.splits.default_fold)

    @cached_property
    def selection(self) -> Selection:
        """The labels, those that ``samora_train`` would take; kept with the dataset."""
        stored = {case: self.prepared / SLICES_FOLDER / f"{case}.json" for case in self.fold.train}
        records = {case: read_stored_case(path) for case, path in stored.items() if path.is_file()}
        available = {case: one.shape[0] for case, one in records.items() if one.label_crcs is not None}
        fold = self.fold_name or self.splits.default_fold
        chosen = select(self.splits, self.split, fold, self.seed, available)
        wanted = self.splits.with_selection(chosen)
        if wanted != self.splits:
            write_json(wanted, self.prepared / SPLITS_FILE)
        return chosen

    @cached_property
    def config(self) -> RunConfig:
        """The record of the run; its network is only a name.

        Raises:
            DataError: ``E-EXT-08`` a labelled case shows what is scored or tested on.
        """
        plans, labels = read_json(Plans, self.prepared / PLANS_FILE), self.raw.scheme
        fingerprint = read_json(Fingerprint, self.prepared / FINGERPRINT_FILE).cases
        protected = protected_names(self.splits, self.fold, fingerprint)
        chosen = self.selection
        if leaks := training_leaks(chosen.cases, protected - set(chosen.cases), fingerprint, self.raw.patient):
            raise DataError("E-EXT-08", found=shortened((leak.text for leak in leaks), "; "))
        flags = {
            PHANTOM_FLAG: self.raw.ours.phantom,
            TRAINING_FLAG: not set(chosen.cases).isdisjoint(self.fold.scored),
        }
        channels, size = len(plans.channel_names), plans.input_size.value or _SIZE
        return RunConfig(
            dataset=self.prepared.name,
            trainer=self.runner.method,
            split=self.split,
            fold=chosen.fold,
            name=self.name,
            recipe="none",
            seed=self.seed,
            model=ModuleSpec(self.runner.method, size, labels.num_outputs, channels),
            base=None,
            plans=plans,
            labels=labels,
            file_ending=self.raw.description.file_ending,
            selection=chosen,
            scored=self.fold.scored,
            pool=PoolRecord({}, self.fold.scored),
            stages=(StageRecord(STAGE, STAGE, "", self.runner.record()),),
            warnings=tuple(flag for flag, applies in flags.items() if applies),
        )

    @property
    def folder(self) -> Path:
        """The fold's folder among the results."""
        run = f"{self.runner.method}__{self.split}__{self.name}"
        return self.roots.results / self.config.dataset / run / f"{FOLD_PREFIX}{self.config.fold}"

    @property
    def place(self) -> Workplace:
        """The folders that the program is given."""
        chosen, ending = self.selection.cases, self.config.file_ending
        return Workplace(self.folder / STAGE, self.config.dataset, chosen, ending, self.seed)

    def run(self) -> Summary:
        """Do what is still to be done, and score; a run that is scored already is only read.

        Raises:
            DataError: ``E-EXT-03`` a command failed, ``E-EXT-05`` the folder holds another run.
            FailedCasesError: ``E-EXT-04`` label maps are missing.
        """
        config, folder = self.config, self.folder
        written = folder / CONFIG_FILE
        if written.is_file() and to_plain(read_run_config(written, allow_code=True)) != to_plain(config):
            raise DataError("E-EXT-05", folder=folder, found=f"another {CONFIG_FILE} in {folder}")
        if (folder / SUMMARY_FILE).is_file():
            return read_json(Summary, folder / SUMMARY_FILE)
        write_json(config, written)
        self.write_inputs()
        self._train_and_predict()
        return self._score()

    def write_inputs(self) -> None:
        """Write the labelled cases as a raw dataset of nnU-Net's form, and links to the scans that are scored.

        Where single slices have labels, all others carry nnU-Net's ``ignore`` value.
        """
        cases, place, description = self._cases(), self.place, self.raw.description
        labels, ignore = dict(description.labels), self.raw.scheme.ignore
        if self.selection.slices:
            ignore = max(self.raw.scheme.values) + 1 if ignore is None else ignore
            labels["ignore"] = ignore
        for name in self.selection.cases:
            _link(cases[name].channels, place.raw / "imagesTr")
            self._write_labels(cases[name], place.raw / "labelsTr", ignore or 0)
        for name in self.fold.scored:
            _link(cases[name].channels, place.images)
        described = replace(description, numTraining=len(self.selection.cases), labels=labels)
        write_dataset(place.raw, described, self.raw.ours)

    def _cases(self) -> dict[str, RawCase]:
        cases = self.raw.training() | self.raw.test()
        if missing := [name for name in (*self.selection.cases, *self.fold.scored) if name not in cases]:
            raise DataError("E-EXT-06", found=shortened(missing), folder=self.raw.folder)
        return cases

    def _write_labels(self, case: RawCase, folder: Path, ignore: int) -> None:
        if case.label is None:
            raise DataError("E-EXT-06", found=f"no label map of {case.name}", folder=self.raw.folder)
        indices = self.selection.slices.get(case.name)
        if indices is None:
            _link((case.label,), folder)
        elif not (folder / case.label.name).is_file():
            volume = read_volume(case.label)
            geometry = slice_geometry(volume.grid, self.config.plans.slice_axis.value)
            stack = labels_to_slices(volume, geometry).copy()
            others = [index for index in range(len(stack)) if index not in set(indices)]
            stack[others] = ignore
            write_labels(folder / case.label.name, to_raw_grid(stack, geometry), volume)

    def _train_and_predict(self) -> None:
        place, seconds = self.place, 0.0
        environment = {**os.environ, **self.runner.environment(place)}
        for folder in (place.predictions, place.folder / "work"):
            folder.mkdir(parents=True, exist_ok=True)
        for words in self.runner.commands(place):
            begun = time.monotonic()
            _call(words, environment, self.folder / LOG_FILE)
            seconds = time.monotonic() - begun
            self._record(seconds)
        if self.runner.predicts_last:
            per_volume = round(seconds / max(1, len(self.fold.scored)), 3)
            write_json(replace(self._timing(), seconds_per_volume=per_volume), self.folder / TIMING_FILE)

    def _timing(self) -> Timing:
        path = self.folder / TIMING_FILE
        return read_json(Timing, path) if path.is_file() else Timing(device=getattr(self.runner, "device", ""))

    def _record(self, seconds: float) -> None:
        """Add to the seconds of all sessions."""
        timing = self._timing()
        before = timing.stages[STAGE].seconds if STAGE in timing.stages else 0.0
        stages = {STAGE: StageTiming(round(before + seconds, 3))}
        write_json(replace(timing, stages=stages), self.folder / TIMING_FILE)

    def _score(self) -> Summary:
        cases, ours, config = self._cases(), self.raw.ours, self.config
        predicted = {name: self.place.predictions / f"{name}{config.file_ending}" for name in config.scored}
        if missing := [name for name, path in predicted.items() if not path.is_file()]:
            raise FailedCasesError("E-EXT-04", found=shortened(missing), folder=self.place.predictions)
        _link(tuple(predicted.values()), self.folder / VALIDATION_FOLDER)
        files = [
            CaseFiles(label, self.folder / VALIDATION_FOLDER / predicted[name].name, name)
            for name in config.scored
            if (label := cases[name].label) is not None
        ]
        rules = Rules(config.labels, NSD_TOLERANCE, ours.spacing_known)
        summary = summarize(
            score_files(files, rules, ours.patients, fold=config.fold),
            label_names(config.labels),
            tolerance=NSD_TOLERANCE,
            distance_unit="mm" if ours.spacing_known else "voxel",
            warnings=config.warnings,
        )
        write_summary(summary, self.folder / SUMMARY_FILE)
        return summary


def _call(words: Words, environment: dict[str, str], log: Path) -> None:
    """Run a command to its end; what it says goes to ``log``, the last lines of it into the error."""
    logger.info("running: %s  (output in %s)", " ".join(words), log)
    try:
        with log.open("ab") as stream:
            code = subprocess.run(words, env=environment, stdout=stream, stderr=stream, check=False).returncode
    except (FileNotFoundError, PermissionError) as error:
        raise DataError("E-EXT-03", program=words[0], log=log, found=str(error)) from error
    if code != 0:
        said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        raise DataError("E-EXT-03", program=words[0], log=log, found=f"exit code {code}: {' / '.join(said)}")


def _link(files: Sequence[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        link = folder / file.name
        if not link.is_symlink():
            link.symlink_to(file.resolve())
