"""The finished runs that teach a student, and what they must not have seen (``--taught-by``)."""

from collections.abc import Sequence
from pathlib import Path

from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT, RunConfig, TaughtBy
from samora_pipeline.contracts.run_folders import FOLD_PREFIX, find_run_folder
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.files import digest_file
from samora_pipeline.registry import shortened


def find_teachers(
    names: Sequence[str], config: RunConfig, hidden: frozenset[str], results: Path
) -> tuple[TaughtBy, ...]:
    """The teachers of a run: the same fold of each finished run that is named.

    Args:
        names: paths, or unique parts of names.
        config: the student's.
        hidden: cases that nothing here may have seen, those scored among them.
        results: the results folder.

    Raises:
        AssetError: ``E-SELF-01`` no such run, or not finished in this fold.
        DataError: ``E-SELF-03`` it segments something else; ``E-SELF-04`` it has seen what is scored here.
    """
    return tuple(_teacher(name, config, hidden, results) for name in dict.fromkeys(names))


def _teacher(name: str, config: RunConfig, hidden: frozenset[str], results: Path) -> TaughtBy:
    fold = f"{FOLD_PREFIX}{config.fold}"
    folder = find_run_folder(name, results, lambda run: (run / fold / FINAL_CHECKPOINT).is_file())
    if folder is not None and folder.name.startswith(FOLD_PREFIX):
        folder = folder.parent
    checkpoint = folder / fold / FINAL_CHECKPOINT if folder is not None else None
    if folder is None or checkpoint is None or not checkpoint.is_file():
        raise AssetError("E-SELF-01", name=name, fold=fold, found=str(folder or "no run of this name"))
    teacher = read_run_config(folder / fold / CONFIG_FILE, allow_code=True)
    for which, theirs, ours in (
        ("dataset", teacher.dataset, config.dataset),
        ("labels", teacher.labels, config.labels),
        ("slice axis", teacher.plans.slice_axis.value, config.plans.slice_axis.value),
    ):
        if theirs != ours:
            raise DataError("E-SELF-03", name=name, which=which, found=str(theirs)[:200], expected=str(ours)[:200])
    seen = _seen(teacher)
    if shown := sorted(hidden & seen):
        raise DataError("E-SELF-04", name=name, found=shortened(shown))
    return TaughtBy(f"{folder.parent.name}/{folder.name}/{fold}", digest_file(checkpoint), tuple(sorted(seen)))


def _seen(run: RunConfig) -> frozenset[str]:
    """The cases that a run has learned from, labelled or not, or was chosen on; and what its own teachers have seen."""
    pools = (
        case if dataset == run.dataset else f"{dataset}/{case}"
        for dataset, cases in run.pool.cases.items()
        for case in cases
    )
    taught = (case for teacher in run.taught_by for case in teacher.seen)
    return frozenset((*run.selection.cases, *run.held_out, *pools, *taught))
