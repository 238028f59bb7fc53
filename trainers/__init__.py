"""Training: the stages of a run from unlabelled scans to a scored network."""

from pathlib import Path
from typing import Any


def train(dataset: str | int | Path, trainer: str, split: str, **arguments: Any) -> Path | None:
    """Train a run, score it, and return its folder; None after ``dry_run=True``.

    Args:
        dataset: number, name or path.
        trainer: ``SAMoraTrainer``, ..., or ``package.module:Class``.
        split: ``full``, ``10pct``, ``4cases``, or a published name.
        arguments: the options of ``samora_train`` by their names: ``fold=0``, ``minutes=5``,
            ``backbone="samora_tiny"``, ``set={"finetune.epochs": 20}``, ``resume=True``, ``root=...``.

    Raises:
        SamoraError: whatever ``samora_train`` refuses.
    """
    from functools import partial

    from samora_pipeline.calls import call, words_of
    from trainers.cli import build_parser, train_runs

    parser = build_parser()
    words = words_of(parser, {"dataset": dataset, "trainer": trainer, "split": split, **arguments})
    return call(parser, partial(train_runs, words=words), words)
