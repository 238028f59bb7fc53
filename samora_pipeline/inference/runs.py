"""Which trained run predicts: the one that is named, the only one, or the one of the dataset the images belong to."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samora_pipeline.command_line import aligned
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT, SUMMARY_FILE
from samora_pipeline.contracts.run_folders import DATASET_FOLDER, FOLD_PREFIX, find_run_folder, run_folders, run_label
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.contracts.scores import EXPORTED_SCORES_FILE, ExportedScores, Summary
from samora_pipeline.errors import AssetError, DataError, UsageError
from samora_pipeline.paths import Roots
from samora_pipeline.registry import shortened, suggestion

_HEADER = ("run", "backbone", "folds", "finished", "Dice", "warnings")
_NONE = "-"
IMAGE_FOLDERS = ("imagesTs", "imagesTr", "imagesUn")


@dataclass(frozen=True)
class TrainedRun:
    """A run's folder and its finished folds, by name."""

    folder: Path
    folds: dict[str, Path]

    @property
    def dataset(self) -> str:
        """``DatasetNNN_Name``, the folder the run lies in."""
        return self.folder.parent.name

    @property
    def label(self) -> str:
        """The run's name as shown and as ``-m`` takes it: ``DatasetNNN_Name/TRAINER__SPLIT__NAME``."""
        return run_label(self.folder)

    @property
    def finished_at(self) -> float:
        """When its last fold was finished, in seconds since the epoch."""
        return max((fold / FINAL_CHECKPOINT).stat().st_mtime for fold in self.folds.values())


@dataclass(frozen=True)
class Choice:
    """The chosen run and folds, the images to predict, and sentences that tell the user what was decided."""

    run: TrainedRun
    folds: tuple[str, ...]
    images: Path
    remarks: tuple[str, ...]


def choose(
    model: str | None, folds: Sequence[str] | None, images: Path, roots: Roots, dataset: str | None = None
) -> Choice:
    """Decide which run predicts ``images``.

    Args:
        model: a run or a fold, by path or by a part of its name; None leaves the choice to us.
        folds: names of folds; None takes all that are finished.
        images: what ``-i`` says. ``imagesTs`` (Tr, Un) that is not in the working directory is looked for in the raw
            folder of the named run's dataset, else of the dataset that was trained last.
        roots: where runs and raw datasets lie.
        dataset: number or name of the dataset that the run was trained on; None: any.

    Raises:
        AssetError: ``E-RUN-01`` no trained run, ``E-RUN-02`` several that would do.
        UsageError: ``E-FOLD-02`` a fold that is not finished.
    """
    runs = [named_run(model, roots.results)] if model else find_runs(roots.results)
    if dataset is not None:
        runs = [run for run in runs if _is_of(run, dataset)]
    if not runs:
        whose = f" of the dataset {dataset}" if dataset else ""
        raise _no_run(f"no finished fold{whose} under {roots.results}")
    remarks = []
    if not images.exists() and images.as_posix() in IMAGE_FOLDERS:
        images = roots.raw / max(runs, key=lambda run: run.finished_at).dataset / images
        remarks.append(f"images: {images}")
    run = _pick(runs, images)
    names = pick_folds(run, folds)
    count = "1 fold" if len(names) == 1 else f"{len(names)} folds, averaged"
    remarks.append(f"model: {run.folder} ({count}: {', '.join(names)})")
    return Choice(run, names, images, tuple(remarks))


def find_runs(results: Path) -> list[TrainedRun]:
    """All runs with a finished fold under the results folder, by name."""
    runs = map(_read_run, run_folders(results))
    return [run for run in runs if run.folds]


def named_run(model: str, results: Path) -> TrainedRun:
    """Return the run of ``-m``: a run or one of its folds, by path or by a part of its name (``find_run_folder``).

    Raises:
        AssetError: ``E-RUN-01`` when nothing there is finished.
        UsageError: ``E-RUN-24`` several runs have this part of a name.
    """
    folder = find_run_folder(model, results, lambda run: bool(_read_run(run).folds))
    if folder is None:
        near = suggestion(model, [run.label for run in find_runs(results)])
        raise _no_run(f"no run {model}, here or under {results}", **near)
    if folder.name.startswith(FOLD_PREFIX) and (folder / CONFIG_FILE).is_file():
        run = TrainedRun(folder.parent, {folder.name.removeprefix(FOLD_PREFIX): folder} if _finished(folder) else {})
    else:
        run = _read_run(folder)
    if not run.folds:
        raise _no_run(f"no fold with {CONFIG_FILE} and {FINAL_CHECKPOINT} in {folder}")
    return run


def _read_run(folder: Path) -> TrainedRun:
    folds = sorted(fold for fold in folder.glob(f"{FOLD_PREFIX}*") if _finished(fold))
    return TrainedRun(folder, {fold.name.removeprefix(FOLD_PREFIX): fold for fold in folds})


def _is_of(run: TrainedRun, dataset: str) -> bool:
    number, _, name = run.dataset.removeprefix("Dataset").partition("_")
    return dataset in (run.dataset, name) or (dataset.isdigit() and int(dataset) == int(number or -1))


def _finished(fold: Path) -> bool:
    return (fold / CONFIG_FILE).is_file() and (fold / FINAL_CHECKPOINT).is_file()


def _pick(runs: list[TrainedRun], images: Path) -> TrainedRun:
    if len(runs) == 1:
        return runs[0]
    parts = {part for part in images.resolve().parts if DATASET_FOLDER.match(part)}
    own = [run for run in runs if run.dataset in parts]
    if len(own) == 1:
        return own[0]
    latest = max(own or runs, key=lambda run: run.finished_at).label
    raise AssetError("E-RUN-02", folder=latest, found=shortened(run.label for run in own or runs))


def pick_folds(run: TrainedRun, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the folds to average: those that are wanted, or all that are finished.

    Raises:
        UsageError: ``E-FOLD-02`` a fold that is not finished.
    """
    if not wanted:
        return tuple(run.folds)
    missing = [name for name in wanted if name not in run.folds]
    if missing:
        known = " ".join(run.folds)
        raise UsageError("E-FOLD-02", run=run, missing=", ".join(missing), folds=known, found=f"finished: {known}")
    return tuple(dict.fromkeys(wanted))


def _no_run(found: str, expected: str = "", typo: tuple[str, str] | None = None) -> AssetError:
    layout = "DatasetNNN_Name/TRAINER__SPLIT__NAME/fold_K with a final checkpoint"
    return AssetError("E-RUN-01", found=found, expected=expected or layout, typo=typo)


def list_runs(runs: list[TrainedRun], *, allow_code: bool = False) -> list[str]:
    """The lines of a table with each run's name as ``-m`` takes it, its finished folds, and its mean Dice.

    Dice is the foreground mean of protocol ``physical`` over the scored cases, averaged over the folds that are scored;
    that of an imported model is what it was exported with. A run that cannot be read is listed with the reason.
    """
    return aligned([_HEADER, *(_row(run, allow_code) for run in runs)])


def _row(run: TrainedRun, allow_code: bool) -> tuple[str, ...]:
    try:
        configs = [read_run_config(fold / CONFIG_FILE, allow_code=allow_code) for fold in run.folds.values()]
        dice = _dice(run)
    except DataError as error:
        reason = f"cannot be read: {error.code} {error.found or error.what}"
        return run.label, _NONE, ", ".join(run.folds), _NONE, _NONE, reason
    warnings = dict.fromkeys(warning for config in configs for warning in config.warnings)
    finished = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.finished_at))
    backbone = f"{configs[0].model.backbone} {configs[0].model.input_text}"
    return run.label, backbone, ", ".join(run.folds), finished, dice, ", ".join(warnings) or _NONE


def _dice(run: TrainedRun) -> str:
    known = [mean for folder in run.folds.values() if (mean := _mean(folder)) is not None]
    if not known:
        return "not scored"
    part = "" if len(known) == len(run.folds) else f" ({len(known)} of {len(run.folds)} folds)"
    told = "" if any((folder / SUMMARY_FILE).is_file() for folder in run.folds.values()) else " (as exported)"
    return f"{sum(known) / len(known):.3f}{part}{told}"


def _mean(folder: Path) -> float | None:
    if (folder / SUMMARY_FILE).is_file():
        return read_json(Summary, folder / SUMMARY_FILE).foreground_mean.Dice
    exported = folder / EXPORTED_SCORES_FILE
    return read_json(ExportedScores, exported).dice if exported.is_file() else None
