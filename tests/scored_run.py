"""A trained and scored run without a network: its config, summary and timing as samora_train leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from samora_pipeline.contracts.json_io import write_json
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.contracts.run import CONFIG_FILE, SUMMARY_FILE, BaseRecord, PoolRecord, RunConfig
from samora_pipeline.contracts.scores import OrganMetrics, SamFamilyMetrics
from samora_pipeline.contracts.splits import Selection
from samora_pipeline.contracts.timing import TIMING_FILE, Timing
from samora_pipeline.evaluation.scoring import CaseScores
from samora_pipeline.evaluation.summary import label_names, summarize
from tests.fake_run import make_plans

SYNAPSE = LabelScheme(
    {
        name: (value,)
        for value, name in enumerate(
            ("spleen", "right_kidney", "left_kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas"), start=1
        )
    }
)
TWO = LabelScheme({"liver": (1,), "spleen": (2,)})

Dice = Mapping[str, Sequence[float | None]]
"""Per case the Dice of each label; None is an organ that the reference lacks, 0 one that was missed."""


def organ(dice: float | None, n_ref: int = 1000) -> OrganMetrics:
    if dice is None:
        return OrganMetrics(None, None, 0, 0, 0, 9, 0, 0, None, None, None, None)
    found = dice > 0
    tp = round(dice * n_ref)
    distance = 50 * (1 - dice) if found else None
    return OrganMetrics(
        Dice=dice,
        IoU=dice / (2 - dice),
        TP=tp,
        FP=n_ref - tp if found else 0,
        FN=n_ref - tp,
        TN=9,
        n_pred=n_ref if found else 0,
        n_ref=n_ref,
        HD95=distance,
        HD=distance,
        ASSD=distance and distance / 4,
        NSD=dice,
        HD95_penalised=distance if found else 300.0,
    )


def case_scores(dice: Dice, labels: LabelScheme, patients: Mapping[str, str], fold: str) -> list[CaseScores]:
    keys = list(label_names(labels))
    return [
        CaseScores(
            case=case,
            patient=patients.get(case, case),
            reference_file=f"{case}.nii.gz",
            prediction_file=f"{case}.nii.gz",
            physical={key: organ(value) for key, value in zip(keys, values, strict=True)},
            sam_family={
                key: SamFamilyMetrics(value or 0.0, 100 * (1 - value) if value else 0.0)
                for key, value in zip(keys, values, strict=True)
            },
            fold=fold,
        )
        for case, values in dice.items()
    ]


def write_scored_run(
    results: Path,
    dice: Dice,
    *,
    dataset: str = "Dataset001_Synapse",
    trainer: str = "SAMoraTrainer",
    split: str = "10pct",
    name: str = "default",
    fold: str = "official",
    labels: LabelScheme = TWO,
    patients: Mapping[str, str] | None = None,
    model: ModelSpec | None = None,
    timing: Timing | None = None,
    stamps: tuple[str, ...] = (),
    tolerance: float = 2.0,
    **changes: Any,
) -> Path:
    """Write one scored fold and return the run folder; ``changes`` are fields of its config."""
    run = results / dataset / f"{trainer}__{split}__{name}"
    folder = run / f"fold_{fold}"
    config = RunConfig(
        dataset=dataset,
        trainer=trainer,
        split=split,
        fold=fold,
        name=name,
        recipe="full",
        seed=0,
        model=model or ModelSpec("samora_tiny", 128, labels.num_outputs, lora_rank=4),
        base=BaseRecord("sam_vit_b", "0" * 64, "public"),
        plans=make_plans(dataset=dataset),
        labels=labels,
        file_ending=".nii.gz",
        selection=Selection(split, fold, "cases", 0, False, ("case_t",)),
        scored=tuple(dice),
        pool=PoolRecord({dataset: ("case_t",)}, tuple(dice)),
        settings={"finetune": {"epochs": 20}},
        stamps=stamps,
    )
    write_json(replace(config, **changes), folder / CONFIG_FILE)
    scores = case_scores(dice, labels, patients or {}, fold)
    write_json(summarize(scores, label_names(labels), tolerance=tolerance, stamps=stamps), folder / SUMMARY_FILE)
    if timing is not None:
        write_json(timing, folder / TIMING_FILE)
    return run


def random_dice(seed: int, cases: int = 12, organs: int = 2, shift: float = 0.0) -> dict[str, list[float]]:
    """Dice of ``cases`` cases, each with its own difficulty; ``shift`` is added to all of them."""
    import numpy as np

    difficulty = np.random.default_rng(99).uniform(0.6, 0.85, (cases, 1))
    noise = np.random.default_rng(seed).normal(shift, 0.02, (cases, organs))
    return {f"case_{row:02d}": [float(value) for value in values] for row, values in enumerate(difficulty + noise)}
