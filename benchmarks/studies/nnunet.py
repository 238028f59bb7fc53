"""nnU-Net v2 as a variant: its own package in an environment of its own, its own plans, the same labelled scans.

Each run has its own nnU-Net folders, with links to the labelled scans and to the scans that are scored; it is trained
on all labelled scans (nnU-Net's fold ``all``) and scored by samora_evaluate.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.studies.steps import Setting, Words
from benchmarks.studies.variants import NnunetVariant
from samora_pipeline.contracts.dataset import RawCase, RawDataset, read_dataset, write_dataset
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import SUMMARY_FILE
from samora_pipeline.contracts.splits import parse_budget, select
from samora_pipeline.contracts.stored_case import SLICES_FOLDER, StoredCase
from samora_pipeline.errors import AssetError, UsageError
from trainers.study.state import Status

SHORT_TRAINERS = Path(__file__).resolve().parent / "nnunet_trainers"

_FOLD = "all"
_COMMANDS = ("nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict")


@dataclass(frozen=True)
class NnunetRun:
    """nnU-Net at one label budget with one seed. The seed draws the labelled scans; its own training is not seeded.

    ``programs`` is the bin folder of its environment.
    """

    setting: Setting
    variant: NnunetVariant
    budget: str
    seed: int
    programs: Path | None
    trainer: str

    @property
    def name(self) -> str:
        """VARIANT/BUDGET/SEED."""
        return f"{self.variant.name}/{self.budget}/{self.seed}"

    @property
    def folder(self) -> Path:
        """Where its three folders, its predictions and its scores lie; both configurations share the raw folder."""
        return self.setting.roots.root / "nnunet" / f"{self.budget}_s{self.seed}"

    @property
    def summary(self) -> Path:
        """Its scores."""
        return self._predictions / SUMMARY_FILE

    @property
    def labelled(self) -> tuple[str, ...]:
        """The labelled scans, drawn or published as for every other variant."""
        setting = self.setting
        fold = setting.splits.fold(setting.fold)
        store = setting.roots.preprocessed / setting.dataset / SLICES_FOLDER
        records = {case: read_json(StoredCase, store / f"{case}.json") for case in fold.train}
        available = {case: record.shape[0] for case, record in records.items() if record.label_crcs is not None}
        return select(setting.splits, self.budget, setting.fold, self.seed, available).cases

    def commands(self) -> Iterator[Words]:
        """Plan, train until its schedule ends, predict the scored scans, score them."""
        raw = read_dataset(self.setting.roots.dataset(self.setting.source.name).raw)
        number = raw.folder.name.removeprefix("Dataset").partition("_")[0]
        self._link(raw)
        which = ["-c", self.variant.configuration]
        place = self.folder / "preprocessed" / raw.folder.name / "nnUNetPlans.json"
        data = self.folder / "preprocessed" / raw.folder.name / f"nnUNetPlans_{self.variant.configuration}"
        if not place.is_file() or not data.is_dir():
            yield self._words(_COMMANDS[0], "-d", number, *which, "-npfp", "1", "-np", "1")
        device = ["-device", (self.setting.device or "cuda").partition(":")[0]]
        if not self._checkpoint(raw, "final").is_file():
            goes_on = ["--c"] if self._checkpoint(raw, "latest").is_file() else []
            yield self._words(
                _COMMANDS[1], number, self.variant.configuration, _FOLD, "-tr", self.trainer, *goes_on, *device
            )
        images, labels = self.folder / "scored" / "images", self.folder / "scored" / "labels"
        places = ["-i", str(images), "-o", str(self._predictions), "-d", number]
        yield self._words(
            _COMMANDS[2], *places, *which, "-f", _FOLD, "-tr", self.trainer, "--continue_prediction", *device
        )
        yield [
            "samora_evaluate",
            "-g",
            str(labels),
            "-p",
            str(self._predictions),
            "--labels",
            str(self._dataset_json(raw)),
        ]

    def outcome(self) -> Status:
        """Done when it is scored."""
        return "done" if self.summary.is_file() else "failed"

    @property
    def _predictions(self) -> Path:
        return self.folder / f"predictions_{self.variant.configuration}"

    def _dataset_json(self, raw: RawDataset) -> Path:
        return self.folder / "raw" / raw.folder.name / "dataset.json"

    def _checkpoint(self, raw: RawDataset, which: str) -> Path:
        trained = f"{self.trainer}__nnUNetPlans__{self.variant.configuration}"
        return self.folder / "results" / raw.folder.name / trained / f"fold_{_FOLD}" / f"checkpoint_{which}.pth"

    def _words(self, program: str, *words: str) -> Words:
        names = ("raw", "preprocessed", "results")
        folders = [f"nnUNet_{name}={self.folder.resolve() / name}" for name in names]
        settings = [*folders, f"nnUNet_extTrainer={SHORT_TRAINERS}", "nnUNet_compile=f"]
        return ["env", *settings, str((self.programs or Path()) / program), *words]

    def _link(self, raw: RawDataset) -> None:
        """Links to the labelled scans as nnU-Net's training set, and to the scored ones."""
        cases = raw.training() | raw.test()
        own = self.folder / "raw" / raw.folder.name
        chosen = self.labelled
        for name in chosen:
            _link_case(cases[name], own / "imagesTr", own / "labelsTr")
        write_dataset(own, replace(raw.description, numTraining=len(chosen)), raw.ours)
        scored = self.folder / "scored"
        for name in self.setting.splits.fold(self.setting.fold).scored:
            _link_case(cases[name], scored / "images", scored / "labels")


def require_nnunet(runs: Sequence[NnunetRun]) -> None:
    """Refuse variants of nnU-Net where it is not installed, or where the labels are single slices.

    Raises:
        AssetError: ``E-STUDY-10`` not installed. UsageError: ``E-STUDY-11`` a budget of slices.
    """
    for run in runs:
        missing = [name for name in _COMMANDS if run.programs is None or not os.access(run.programs / name, os.X_OK)]
        if missing:
            raise AssetError(
                "E-STUDY-10",
                f'the variant "{run.variant.name}" needs nnU-Net v2 in an environment of its own',
                found=f"no {', '.join(missing)} in {run.programs or 'any named folder'}",
                expected="its three commands",
                fix="python -m venv nnunet && nnunet/bin/pip install nnunetv2, then --nnunet nnunet/bin",
            )
        budget = parse_budget(run.budget)
        if getattr(budget, "unit", None) == "slices":
            raise UsageError(
                "E-STUDY-11",
                "nnU-Net learns from whole scans and cannot take a budget of slices",
                found=run.budget,
                expected="a budget of cases",
                fix="leave its variants out of --variants",
            )


def _link_case(case: RawCase, images: Path, labels: Path) -> None:
    for place, files in ((images, case.channels), (labels, (case.label,) if case.label else ())):
        place.mkdir(parents=True, exist_ok=True)
        for file in files:
            link = place / file.name
            if not link.is_symlink():
                link.symlink_to(file.resolve())
