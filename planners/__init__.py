"""Planning and preprocessing: from raw datasets to plans, splits and stored slices."""

from pathlib import Path
from typing import Any


def plan(*datasets: str | int | Path, **arguments: Any) -> list[Path]:
    """Check, plan and preprocess datasets; return the folder of each.

    Args:
        datasets: numbers, names or paths; none: all whose plan is missing or stale.
        arguments: the options of ``samora_plan_and_preprocess`` by their names: ``verify_only=True``, ``workers=4``,
            ``set={"input_size": 128}``, ``root=...``.

    Raises:
        FailedCasesError: ``E-CASE-03`` some cases were skipped (``skip_invalid=True``).
        SamoraError: whatever else ``samora_plan_and_preprocess`` refuses.
    """
    from planners.cli import build_parser, plan_datasets
    from samora_pipeline.calls import call, words_of
    from samora_pipeline.paths import resolve_roots

    root = arguments.get("root")
    for chosen in datasets or (None,):
        parser = build_parser()
        call(parser, plan_datasets, words_of(parser, {"datasets": chosen, **arguments}))
    roots = resolve_roots(None if root is None else str(root))
    folders = [roots.dataset(str(dataset)) for dataset in datasets] or roots.datasets()
    return [roots.preprocessed / folder.folder_name for folder in folders]
