"""Runs the stages of a run that are still missing, in order. The main rank writes, the others train along."""

import shutil
import time
from dataclasses import replace

from samora_pipeline import distributed
from samora_pipeline.command_line import say as say_result
from samora_pipeline.contracts.monitoring import EXPERTS_FILE
from samora_pipeline.contracts.run import BASE_FILE, SUMMARY_FILE
from samora_pipeline.contracts.timing import StageTiming
from samora_pipeline.files import atomic_path, digest_file, sweep
from samora_pipeline.models.samora import SegmentationNetwork
from trainers.loop.monitors import compare_experts
from trainers.runs.folder import config_digest, record_seconds_per_volume, record_stage, trained, write_config
from trainers.runs.planning import PlannedRun, with_bootstrap
from trainers.settings import BOOTSTRAP, FINETUNE, VALIDATE
from trainers.stages import validate
from trainers.stages.experts import rehearse
from trainers.stages.finetune import Finetune
from trainers.stages.self_training import SOFT_LABELS_FOLDER
from trainers.stages.stage import missing, run_stage, say, shared_timing


class Execution:
    """One session of a run.

    Shared results belong to the dataset, so training them writes nothing into the run's own folder.
    """

    def __init__(self, run: PlannedRun, *, one_case: bool = False) -> None:
        self.config, self.context, self.one_case = run.config, run.context, one_case
        self.folder = run.context.folder
        self._shared = [stage for stage in run.context.stages.values() if stage.shared and stage.trains()]

    def run(self, only: str | None) -> None:
        """Run all stages that are missing, or the one that is named.

        Raises:
            AssetError: ``E-RUN-23`` a stage is named, and one that it needs is missing.
        """
        if only in (None, FINETUNE):
            self._write_config()
        if not trained(self.folder):
            self._rehearse()
            for stage in self._shared:
                if stage.result(self.context).is_file():
                    say(f"{stage.name}: reused {stage.result(self.context).parent}")
                elif only in (None, stage.name):
                    run_stage(stage, self.config, self.context, stage.digest)
                if stage.name == BOOTSTRAP:
                    # Experts keep the digest of the base that they were trained on.
                    self.config = with_bootstrap(self.config, self.context)
        if only in (None, FINETUNE):
            self._finetune()
        if only in (None, VALIDATE):
            self._validate(again=only is not None)

    def _rehearse(self) -> None:
        """Read untrained experts into the network of stage 2 as fine-tuning will, before the first of them learns."""
        stages = {name: self.context.stages[record.name] for name, record in self.config.experts.items()}
        for level, stage in stages.items():
            if not stage.result(self.context).is_file():
                rehearse(self.config, level)
                return

    def _finetune(self) -> None:
        if trained(self.folder):
            say(f"{FINETUNE}: finished in {self.folder}")
            return
        for stage in self._shared:
            if not stage.result(self.context).is_file():
                raise missing(stage.name)
            if (timing := shared_timing(stage, self.context)) is not None:
                self._record(stage.name, timing)
        if BOOTSTRAP in self.context.stages:
            self._own_base()
        self._compare_experts()
        self.context.release_source()
        stage = self.context.stages[FINETUNE]
        self._record(FINETUNE, run_stage(stage, self.config, self.context, config_digest(self.config)))
        if distributed.is_main():
            shutil.rmtree(self.folder / SOFT_LABELS_FOLDER, ignore_errors=True)

    def _compare_experts(self) -> None:
        """Once, before fine-tuning; every rank waits for the main one."""
        levels, stage = tuple(self.config.experts), self.context.stages[FINETUNE]
        if not levels or not isinstance(stage, Finetune):
            return
        compared = (self.folder / EXPERTS_FILE).is_file()
        distributed.barrier()  # the main rank must not write experts.json before every rank has looked for it
        if compared:
            return
        source = self.context.source
        if distributed.is_main():
            network = stage.network(self.config, self.context)
            if isinstance(network, SegmentationNetwork):
                with self.context.room_for("the experts beside each other"):
                    compare_experts(network, levels, source, self.context.device, self.folder, self.config.warnings)
        distributed.barrier()

    def _own_base(self) -> None:
        """Copy a bootstrapped base into the run and note its digest, so that the run can be moved."""
        copy, made, base = self.folder / BASE_FILE, self.context.base_file, self.config.base
        if made is None or base is None:
            raise missing(BOOTSTRAP)
        if distributed.is_main() and not copy.is_file():
            with atomic_path(copy) as temporary:
                shutil.copyfile(made, temporary)
        distributed.barrier()
        self.config = replace(self.config, base=replace(base, digest=digest_file(copy)))
        self._write_config()

    def _write_config(self) -> None:
        if distributed.is_main():
            sweep(self.folder)
            write_config(self.folder, self.config)
        distributed.barrier()

    def _validate(self, *, again: bool) -> None:
        raw = self.context.dataset.raw
        if not trained(self.folder):
            raise missing(FINETUNE)
        if (self.folder / SUMMARY_FILE).is_file() and not again:
            say(f"{VALIDATE}: finished in {self.folder}")
            if distributed.is_main():
                self._report(missing_only=True)
            return
        known = raw.test() | raw.training()
        names = self.config.scored[:1] if self.one_case else self.config.scored
        cases = tuple(known[name] for name in names if name in known)
        if len(cases) < len(names) or not cases:
            say(
                f"validation skipped: {len(names) - len(cases)} of {len(names)} scored cases have no files in "
                f"{raw.folder}; when they are there, the same command with --stage validate scores the run"
            )
            return
        limit = self.context.limit
        limit.leave(VALIDATE, self.context.resume_command, self.context.device)
        begun = time.monotonic()
        with limit.alarm():
            summary, seconds = validate.run_validation(self.config, self.context, cases)
        self._record(VALIDATE, StageTiming(round(time.monotonic() - begun, 3)))
        if distributed.is_main():
            record_seconds_per_volume(self.folder, seconds)
            if summary is not None:
                from samora_pipeline.evaluation.tables import render

                say_result(render(summary))
                self._report()

    def _report(self, *, missing_only: bool = False) -> None:
        from samora_pipeline.reporting.report_run import Places

        context = self.context
        places = Places(
            raw=context.dataset.raw.folder,
            preprocessed=context.dataset.folder,
            pretraining=context.pretraining,
            weights=context.weights,
        )
        validate.write_run_report(self.folder, places, context.device, missing_only=missing_only)

    def _record(self, stage: str, timing: StageTiming) -> None:
        if distributed.is_main():
            record_stage(self.folder, stage, timing, str(self.context.device), distributed.world_size())
