"""nnU-Net v2 as a variant of the study: ``samora_external nnunet`` on the same labelled scans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.studies.steps import Setting, Words
from benchmarks.studies.variants import NnunetVariant
from samora_pipeline.contracts.run import SUMMARY_FILE
from samora_pipeline.errors import AssetError
from samora_pipeline.external.nnunet import NnunetRunner
from samora_pipeline.external.run import ExternalRun
from trainers.study.state import Status

SHORT_TRAINERS = Path(__file__).resolve().parent / "nnunet_trainers"


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

    @cached_property
    def external(self) -> ExternalRun:
        """The run, once its dataset is planned.

        Raises:
            AssetError: ``E-EXT-02`` nnU-Net is not installed.
        """
        setting = self.setting
        return ExternalRun(
            self._runner(), setting.roots, setting.dataset, self.budget, setting.fold, self.seed, self._run_name
        )

    @property
    def folder(self) -> Path:
        """The fold's folder among the results."""
        return self.external.folder

    @property
    def summary(self) -> Path:
        """Its scores."""
        return self.folder / SUMMARY_FILE

    @property
    def labelled(self) -> tuple[str, ...]:
        """The labelled scans, drawn or published as for every other variant."""
        return self.external.selection.cases

    def commands(self) -> Iterator[Words]:
        """One command, which plans, trains, predicts and scores whatever of it is still to be done."""
        setting, runner = self.setting, self._runner()
        yield [
            *("samora_external", "nnunet", setting.dataset, self.budget, "-f", setting.fold, *setting.root_words),
            *("--seed", str(self.seed), "--name", self._run_name, "--programs", str(runner.programs)),
            *("--configuration", runner.configuration, "--device", runner.device),
            *("--trainer", self.trainer, "--trainers", str(SHORT_TRAINERS)),
        ]

    def outcome(self) -> Status:
        """Done when it is scored."""
        return "done" if self.summary.is_file() else "failed"

    def require(self) -> None:
        """Refuse where nnU-Net is not installed.

        Raises:
            AssetError: ``E-STUDY-10``.
        """
        try:
            self._runner()
        except AssetError as error:
            raise AssetError(
                "E-STUDY-10",
                f'the variant "{self.variant.name}" needs nnU-Net v2 in an environment of its own',
                found=error.found,
                expected="its three commands",
                fix="python -m venv nnunet && nnunet/bin/pip install nnunetv2, then --nnunet nnunet/bin",
            ) from error

    @property
    def _run_name(self) -> str:
        return f"{self.variant.name}-{self.trainer}-seed{self.seed}".replace("_", "-")

    def _runner(self) -> NnunetRunner:
        device = (self.setting.device or "cuda").partition(":")[0]
        return NnunetRunner(
            self.programs or Path(),
            self.variant.configuration,
            trainer=self.trainer,
            trainers=SHORT_TRAINERS,
            device=device,
        )


def require_nnunet(runs: Sequence[NnunetRun]) -> None:
    """Refuse variants of nnU-Net where it is not installed (``E-STUDY-10``)."""
    for run in runs:
        run.require()
