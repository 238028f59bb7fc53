"""``samora_pipeline.evaluate``: samora_evaluate from Python."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samora_pipeline.calls import call, words_of
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.evaluation.cli import build_parser, scored


def evaluate(
    references: str | Path | None = None,
    predictions: str | Path | None = None,
    *,
    labels: str | Path | Mapping[str, int] | None = None,
    **arguments: Any,
) -> Summary:
    """Score a folder of predictions, or sum up the folds of a run; nothing is written unless ``output`` is given.

    Args:
        references: folder of reference labels.
        predictions: folder of predictions.
        labels: a dataset.json, or names and values; None: what lies beside the files, else each value by itself.
        arguments: the options of ``samora_evaluate`` by their names: ``subset=["case_01"]``, ``convention="monai"``,
            ``processes=4``, ``output="scores.json"``; or ``folds="RUN"`` alone.

    Raises:
        SamoraError: whatever ``samora_evaluate`` refuses.
    """
    parser = build_parser()
    given = {"references": references, "predictions": predictions, "labels": labels, **arguments}
    return call(parser, scored, words_of(parser, given))
