"""The finished runs that teach a run (``--taught-by``), or that it starts from (``--start-from``), and what they must
not have seen.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT, RunConfig, TaughtBy
from samora_pipeline.contracts.run_folders import FOLD_PREFIX, find_run_folder
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.files import digest_file
from samora_pipeline.models.catalog import is_trained_whole
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
    return tuple(_finished(name, config, hidden, results, start=False)[0] for name in dict.fromkeys(names))


def find_start(name: str | None, config: RunConfig, hidden: frozenset[str], results: Path) -> TaughtBy | None:
    """The run that another one starts from, in the same fold; None where none is named. Arguments as above.

    Raises:
        AssetError: ``E-START-01`` no such run, or not finished in this fold.
        DataError: ``E-START-02`` it is of another network, dataset or labels; ``E-START-03`` it has seen what is scored
            here.
    """
    if name is None:
        return None
    record, first = _finished(name, config, hidden, results, start=True)
    _require_equal(name, [("network", first.model, config.model)], start=True)
    return record


def require_base(name: str, config: RunConfig, results: Path) -> None:
    """Refuse to start from a run on another bootstrapped base than this one has, or would train first.

    Raises:
        DataError: ``E-START-02``.
    """
    start, base = config.started_from, config.base
    if (
        start is None
        or base is None
        or not isinstance(config.model, ModelSpec)
        or is_trained_whole(config.model.backbone)
    ):
        return
    theirs = read_run_config(results / start.run / CONFIG_FILE, allow_code=True).base_digest
    _require_equal(name, [("base encoder", theirs, base.digest or "one that is not trained yet")], start=True)


def _finished(
    name: str, config: RunConfig, hidden: frozenset[str], results: Path, *, start: bool
) -> tuple[TaughtBy, RunConfig]:
    fold = f"{FOLD_PREFIX}{config.fold}"
    folder = find_run_folder(name, results, lambda run: (run / fold / FINAL_CHECKPOINT).is_file())
    if folder is not None and folder.name.startswith(FOLD_PREFIX):
        folder = folder.parent
    checkpoint = folder / fold / FINAL_CHECKPOINT if folder is not None else None
    if folder is None or checkpoint is None or not checkpoint.is_file():
        place = str(folder or "no run of this name")
        if start:
            raise AssetError("E-START-01", name=name, fold=fold, found=place)
        raise AssetError("E-SELF-01", name=name, fold=fold, found=place)
    other = read_run_config(folder / fold / CONFIG_FILE, allow_code=True)
    pairs: list[tuple[str, object, object]] = [
        ("dataset", other.dataset, config.dataset),
        ("labels", _outputs(other), _outputs(config)),
        ("slice axis", other.plans.slice_axis.value, config.plans.slice_axis.value),
    ]
    _require_equal(name, pairs, start=start)
    seen = _seen(other)
    if shown := sorted(hidden & seen):
        if start:
            raise DataError("E-START-03", name=name, found=shortened(shown))
        raise DataError("E-SELF-04", name=name, found=shortened(shown))
    record = TaughtBy(f"{folder.parent.name}/{folder.name}/{fold}", digest_file(checkpoint), tuple(sorted(seen)))
    return record, other


def _outputs(run: RunConfig) -> LabelScheme:
    """The labels that the network tells; a value for ``ignore`` is none of them."""
    return replace(run.labels, ignore=None)


def _require_equal(name: str, pairs: Sequence[tuple[str, object, object]], *, start: bool) -> None:
    for which, theirs, ours in pairs:
        if theirs != ours:
            found, expected = str(theirs)[:200], str(ours)[:200]
            if start:
                raise DataError("E-START-02", name=name, which=which, found=found, expected=expected)
            raise DataError("E-SELF-03", name=name, which=which, found=found, expected=expected)


def _seen(run: RunConfig) -> frozenset[str]:
    """The cases that a run has learned from, labelled or not, or was chosen on; and those of the runs behind it."""
    pools = (
        case if dataset == run.dataset else f"{dataset}/{case}"
        for dataset, cases in run.pool.cases.items()
        for case in cases
    )
    behind = (*run.taught_by, *([run.started_from] if run.started_from else ()))
    before = (case for other in behind for case in other.seen)
    return frozenset((*run.selection.cases, *run.held_out, *pools, *before))
