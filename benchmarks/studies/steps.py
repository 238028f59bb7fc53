"""The steps of a study: what each one runs, and how it is known that it is finished.

A step yields the words of its commands one after another, each after the one before it has succeeded. All of them may
be run again after any interruption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.studies.scales import Scale
from benchmarks.studies.sources import StudySource, hold_out, raw_folder
from benchmarks.studies.unseen import require_unseen
from benchmarks.studies.variants import Variant
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.plans import PLANS_FILE, Plans
from samora_pipeline.contracts.run import FINAL_CHECKPOINT, SUMMARY_FILE
from samora_pipeline.contracts.splits import SPLITS_FILE, Splits
from samora_pipeline.errors import AssetError
from samora_pipeline.paths import Roots
from trainers.study.state import Status

Words = list[str]


@dataclass(frozen=True)
class Setting:
    """What all steps of a study share. ``settings`` are ``--set`` values for every variant."""

    roots: Roots
    source: StudySource
    scale: Scale
    settings: tuple[str, ...]
    device: str | None

    @cached_property
    def dataset(self) -> str:
        """DatasetNNN_Name, once it is converted."""
        return self.roots.dataset(self.source.name).folder_name

    @cached_property
    def splits(self) -> Splits:
        """The folds, once they are planned."""
        return read_json(Splits, self.roots.preprocessed / self.dataset / SPLITS_FILE)

    @property
    def fold(self) -> str:
        """The fold that is scored."""
        return self.source.fold or self.splits.default_fold

    @property
    def root_words(self) -> Words:
        """The option that names the data root."""
        return ["--root", str(self.roots.root)]


@dataclass(frozen=True)
class Prepare:
    """Converts and plans one dataset; what is there already stays."""

    setting: Setting
    source: StudySource
    folder: Path | None

    @property
    def name(self) -> str:
        """prepare/DATASET."""
        return f"prepare/{self.source.name}"

    def commands(self) -> Iterator[Words]:
        """samora_convert, then samora_plan_and_preprocess."""
        roots, words = self.setting.roots, self.setting.root_words
        if raw_folder(self.source, roots) is None:
            yield ["samora_convert", "-d", self.source.converter, "-i", str(self._found()), *words]
        if self.source.train:
            hold_out(self.source, roots)
        place = roots.dataset(self.source.name)
        size, plans = self.setting.scale.input_size, roots.preprocessed / place.folder_name / PLANS_FILE
        if not plans.is_file() or read_json(Plans, plans).input_size.value != size:
            yield ["samora_plan_and_preprocess", "-d", str(place.number), "--set", f"input_size={size}", *words]

    def outcome(self) -> Status:
        """Done."""
        return "done"

    def require_source(self) -> None:
        """Refuse to begin where the dataset is neither converted nor named (``E-STUDY-07``)."""
        if raw_folder(self.source, self.setting.roots) is None:
            self._found()

    def _found(self) -> Path:
        if self.folder is None or not self.folder.is_dir():
            raise AssetError(
                "E-STUDY-07",
                f"the scans of {self.source.name} are not there",
                found=str(self.folder or f"no dataset {self.source.name} under {self.setting.roots.raw}"),
                expected="a converted dataset under the root, or its download",
                fix=f"--source {self.source.name}=FOLDER",
            )
        return self.folder


@dataclass(frozen=True)
class TrainedRun:
    """One variant at one label budget with one seed: a run of samora_train with all its stages."""

    setting: Setting
    variant: Variant
    budget: str
    seed: int

    @property
    def name(self) -> str:
        """VARIANT/BUDGET/SEED."""
        return f"{self.variant.name}/{self.budget}/{self.seed}"

    @property
    def folder(self) -> Path:
        """The fold folder of the run."""
        run = f"{self.variant.trainer.rpartition(':')[2]}__{self.budget}__{self.variant.name}-s{self.seed}"
        return self.setting.roots.results / self.setting.dataset / run / f"fold_{self.setting.fold}"

    @property
    def summary(self) -> Path:
        """Its scores."""
        return self.folder / SUMMARY_FILE

    def commands(self) -> Iterator[Words]:
        """samora_train with ``-c``, which begins a run, goes on with it, or scores one that is only trained."""
        yield self.words()

    def words(self) -> Words:
        """The command."""
        variant, setting = self.variant, self.setting
        words = ["samora_train", setting.source.name, variant.trainer, self.budget, "-c", *setting.root_words]
        words += [
            "--recipe",
            variant.recipe,
            "--backbone",
            setting.scale.backbone_of(variant),
            "--seed",
            str(self.seed),
        ]
        words += ["--name", f"{variant.name}-s{self.seed}"]
        optional = {
            "-f": setting.source.fold,
            "--backbone-weights": setting.scale.base_of(variant),
            "--levels": ",".join(variant.levels),
            "--device": setting.device,
        }
        words += [word for option, value in optional.items() if value for word in (option, value)]
        words += ["--unlabeled", *variant.unlabeled] if variant.unlabeled else []
        return words + [word for text in self.assignments() for word in ("--set", text)]

    def assignments(self) -> tuple[str, ...]:
        """All ``--set`` values, those of the command line last."""
        return (*self.setting.scale.settings_of(self.variant), *self.setting.settings)

    def outcome(self) -> Status:
        """Done when it is scored and nothing of what was scored had been seen; trained when the scans are elsewhere."""
        if not (self.folder / FINAL_CHECKPOINT).is_file():
            return "failed"
        require_unseen(self.folder, self.setting.roots)
        return "done" if self.summary.is_file() else "trained"
