"""Runs the stages of a plan that are still missing, in order. The main rank writes, the others train along."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from samora_pipeline import distributed
from samora_pipeline.command_line import say
from samora_pipeline.contracts.level import Level
from samora_pipeline.contracts.pretraining_card import EXPERTS_CARD_FILE
from samora_pipeline.contracts.run import BASE_FILE, POOL_STAMPS, SUMMARY_FILE
from samora_pipeline.errors import AssetError
from samora_pipeline.files import atomic_path, digest_file, sweep
from samora_pipeline.models.freezing import Part
from samora_pipeline.run_log import Line, duration, logger
from samora_pipeline.slices.datasets import UnlabelledSource
from trainers.artefacts import PRETRAINING_FOLDER, TARGETS_FOLDER, Artefact
from trainers.base import fetch_base
from trainers.expert_similarity import compare_experts
from trainers.planning import RunPlan
from trainers.pool_manifest import describe_choice, pool_manifest
from trainers.request import BOOTSTRAP
from trainers.run_folder import config_digest, trained, write_config
from trainers.stages import bootstrap, experts, finetune, teachers, validate
from trainers.stages.stage import StageContext
from trainers.timing import StageTiming, of_history, record_seconds_per_volume, record_stage


class Execution:
    """One sitting of a run.

    Results of stage 1 belong to the dataset, so training them writes nothing into the run's own folder.
    """

    def __init__(self, plan: RunPlan, context: StageContext, weights: Path, *, one_case: bool = False) -> None:
        self.plan, self.context, self.weights = plan, context, weights
        self.one_case = one_case
        self.config = plan.config
        self._name = f"{plan.folder.parent.name}/{plan.folder.name}"
        self._source: UnlabelledSource | None = None
        self._fetched: Path | None = None

    def run(self, only: str | None) -> None:
        """Run all stages that are missing, or the one that is named.

        Raises:
            AssetError: ``E-RUN-23`` a stage is named, and one that it needs is missing.
        """
        folder = self.plan.folder
        if only in (None, finetune.STAGE):
            self._write_config()
        if not trained(folder):
            self._rehearse()
            for artefact in self.plan.artefacts:
                if artefact.done:
                    self._say(f"{artefact.stage}: reused {artefact.file.parent}")
                elif only in (None, artefact.stage):
                    self._train(artefact)
        if only in (None, finetune.STAGE):
            self._finetune()
        if only in (None, validate.STAGE):
            self._validate(again=only is not None)

    def _train(self, artefact: Artefact) -> None:
        # Every rank has seen that the file is missing before the main one can write it.
        distributed.barrier()
        training = self._training(artefact)
        source = self._pool_source()
        if distributed.is_main():
            sweep(artefact.file.parent)
            artefact.write_inputs()
        history = training(source)
        if distributed.is_main():
            artefact.write_record(self._name, of_history(history))
        self._say_done(artefact.stage, history)

    def _training(self, artefact: Artefact) -> Callable[[UnlabelledSource], list[Line]]:
        """What trains an artefact; whatever it needs has been found then."""
        plan = self.plan
        file, digest = artefact.file, artefact.digest
        if artefact is plan.base.bootstrap:
            backbone, plans, settings = plan.choices.backbone, plan.dataset.plans, plan.choices.settings.bootstrap
            return lambda source: bootstrap.run_bootstrap(backbone, source, plans, settings, self.context, file, digest)
        for level, teacher in plan.teachers.items():
            if artefact is teacher.artefact:
                started = self._teacher_inputs(level)
                return lambda source: teachers.run_teacher(started, source, self.context, file, digest)
        level = next(level for level, expert in plan.experts.items() if expert is artefact)
        base = self._base_file()
        inputs = self._expert_inputs(level, base, digest_file(base))
        return lambda source: experts.run_expert(inputs, source, self.context, file, digest)

    def _teacher_inputs(self, level: Level) -> teachers.TeacherInputs:
        planned = self.plan.teachers[level]
        # What was trained on the pool already needs nothing of what it started from.
        made = planned.artefact is not None and planned.artefact.done
        file = None if made else planned.starting_file(self.weights)
        return teachers.TeacherInputs(planned, file, self.plan.dataset.plans, self._stamps(level))

    def _expert_inputs(self, level: Level, base: Path, base_digest: str) -> experts.ExpertInputs:
        plan = self.plan
        if level in plan.teachers:
            needed = plan.teachers[level].artefact
            if needed is not None and not needed.done:
                raise _missing(needed.stage)
        return experts.ExpertInputs(
            level=level,
            backbone=plan.choices.backbone,
            base=base,
            base_digest=base_digest,
            dataset=plan.dataset.name,
            pool=self.config.pool,
            plans=plan.dataset.plans,
            settings=plan.choices.settings,
            targets=plan.experts[level].file.parents[2] / TARGETS_FOLDER,
            teacher=self._teacher_inputs(level) if level in plan.teachers else None,
            stamps=self._stamps(level),
        )

    def _stamps(self, level: Level) -> tuple[str, ...]:
        """The stamps that hold for a level in every run that shares its results."""
        shared = [stamp for stamp in self.config.stamps if stamp in POOL_STAMPS]
        teacher = self.plan.teachers.get(level)
        return (*shared, teacher.stamp) if teacher is not None and teacher.stamp else tuple(shared)

    def _rehearse(self) -> None:
        """Read untrained experts into the network of stage 2 as fine-tuning will, before the first of them learns."""
        plan = self.plan
        missing = [level for level, artefact in plan.experts.items() if not artefact.done]
        if missing:
            inputs = experts.ExpertInputs(
                missing[0],
                plan.choices.backbone,
                plan.folder,
                self.config.base.digest,
                plan.dataset.name,
                self.config.pool,
                plan.dataset.plans,
                plan.choices.settings,
                plan.folder,
            )
            experts.rehearse(inputs, self.config.model, finetune.hidden_cases(self.config))

    def _base_file(self) -> Path:
        made, copy = self.plan.base.bootstrap, self.plan.folder / BASE_FILE
        if made is None and self.plan.base.file is not None:
            return self.plan.base.file
        if made is not None and made.done:
            return made.file
        if copy.is_file():
            return copy
        if self.plan.base.awaited:
            self._fetched = self._fetched or fetch_base(self.plan.base, self.weights)
            return self._fetched
        raise _missing(BOOTSTRAP)

    def _pool_source(self) -> UnlabelledSource:
        if self._source is None:
            pool = self.plan.pool
            if pool is None:
                raise ValueError("a stage without labels needs a pool")
            pool.check()
            manifest = pool_manifest(pool)
            self._source = pool.source(manifest)
            self._say(describe_choice(manifest, pool))
        return self._source

    def _finetune(self) -> None:
        plan, folder = self.plan, self.plan.folder
        if trained(folder):
            self._say(f"finetune: finished in {folder}")
            return
        for artefact in plan.artefacts:
            if not artefact.done:
                raise _missing(artefact.stage)
            if (timing := artefact.timing(self._name)) is not None:
                self._record(artefact.stage, timing)
        base = self._base_file()
        if plan.base.bootstrap is not None:
            base = self._own_base(base)
        inputs = finetune.FinetuneInputs(
            config=self.config,
            settings=plan.choices.settings.finetune,
            base=base,
            experts={level: artefact.file for level, artefact in plan.experts.items()},
            slices=plan.dataset.slices,
            parts=frozenset(Part(name) for name in plan.choices.trainer.parts),
        )
        self._compare_experts(inputs)
        self._source = None
        history = finetune.run_finetune(inputs, self.context, folder, config_digest(self.config))
        self._record(finetune.STAGE, of_history(history))
        self._say_done(finetune.STAGE, history)

    def _compare_experts(self, inputs: finetune.FinetuneInputs) -> None:
        """Once, before fine-tuning; every rank waits for the main one."""
        folder, levels = self.plan.folder, tuple(inputs.experts)
        if not levels:
            return
        compared = (folder / EXPERTS_CARD_FILE).is_file()
        distributed.barrier()  # the main rank must not write the card before every rank has looked for it
        if compared:
            return
        source = self._pool_source()
        if distributed.is_main():
            network = finetune.starting_network(inputs, self.context.seed)
            compare_experts(network, levels, source, self.context.device, folder, self.config.stamps)
        distributed.barrier()

    def _own_base(self, made: Path) -> Path:
        """Copy a bootstrapped base into the run and note its digest, so that the run can be moved."""
        copy = self.plan.folder / BASE_FILE
        if distributed.is_main() and not copy.is_file():
            with atomic_path(copy) as temporary:
                shutil.copyfile(made, temporary)
        distributed.barrier()
        self.config = replace(self.config, base=replace(self.config.base, digest=digest_file(copy)))
        self._write_config()
        return copy

    def _write_config(self) -> None:
        if distributed.is_main():
            sweep(self.plan.folder)
            write_config(self.plan.folder, self.config)
        distributed.barrier()

    def _validate(self, *, again: bool) -> None:
        folder, raw = self.plan.folder, self.plan.dataset.raw
        if not trained(folder):
            raise _missing(finetune.STAGE)
        if (folder / SUMMARY_FILE).is_file() and not again:
            self._say(f"validate: finished in {folder}")
            if distributed.is_main():
                self._report(missing_only=True)
            return
        names = self.config.scored[:1] if self.one_case else self.config.scored
        cases = validate.scored_cases(raw, names)
        if len(cases) < len(names) or not cases:
            self._say(
                f"validation skipped: {len(names) - len(cases)} of {len(names)} scored cases have no files in "
                f"{raw.folder}; when they are there, the same command with --stage validate scores the run"
            )
            return
        begun = time.monotonic()
        inputs = validate.ValidationInputs(self.config, folder, cases, raw, self.weights)
        result = validate.run_validation(inputs, self.context.device)
        self._record(validate.STAGE, StageTiming(round(time.monotonic() - begun, 3)))
        if distributed.is_main():
            record_seconds_per_volume(folder, result.seconds_per_volume)
            if result.summary is not None:
                from samora_pipeline.evaluation.tables import render

                say(render(result.summary))
                self._report()

    def _report(self, *, missing_only: bool = False) -> None:
        from samora_pipeline.reporting.report_run import Places

        plan = self.plan
        places = Places(
            raw=plan.dataset.raw.folder,
            preprocessed=plan.dataset.folder,
            pretraining=plan.folder.parent.parent / PRETRAINING_FOLDER,
            weights=self.weights,
        )
        validate.write_run_report(plan.folder, places, self.context.device, missing_only=missing_only)

    def _record(self, stage: str, timing: StageTiming) -> None:
        if distributed.is_main():
            record_stage(self.plan.folder, stage, timing, str(self.context.device), distributed.world_size())

    def _say_done(self, stage: str, history: list[Line]) -> None:
        self._say(f"{stage}: done in {duration(of_history(history).seconds)}")

    def _say(self, text: str) -> None:
        if distributed.is_main():
            logger.info(text)


def _missing(stage: str) -> AssetError:
    return AssetError(
        "E-RUN-23",
        f'the stage "{stage}" has to come first',
        found=f"no result of {stage}",
        expected="the stages in their order",
        fix=f"the same command without --stage, or with --stage {stage}",
    )
