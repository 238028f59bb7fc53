"""The scores and the records of a trained run, read from its folder wherever that lies now."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from samora_pipeline.contracts.json_io import read_json, to_plain
from samora_pipeline.contracts.run import CONFIG_FILE, SUMMARY_FILE, RunConfig
from samora_pipeline.contracts.run_folders import FOLD_PREFIX, find_run_folder, run_folders, run_label
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.contracts.timing import TIMING_FILE, Timing
from samora_pipeline.errors import AssetError, UsageError
from samora_pipeline.evaluation.summary import sum_up_folds
from samora_pipeline.files import digest_json
from samora_pipeline.registry import suggestion

_FINETUNE = "finetune"


@dataclass(frozen=True)
class ScoredRun:
    """A run whose folds are scored: one summary over them, the config of each, and what was timed.

    ``label`` names the run in tables; ``folder`` is where it was found and appears in no output.
    """

    folder: Path
    label: str
    configs: tuple[RunConfig, ...]
    timings: tuple[Timing, ...]
    summary: Summary

    @property
    def config(self) -> RunConfig:
        """The config of the first fold; folds of one run differ in their cases only."""
        return self.configs[0]

    @property
    def folds(self) -> tuple[str, ...]:
        """The folds that were scored."""
        return tuple(config.fold for config in self.configs)

    @property
    def warnings(self) -> tuple[str, ...]:
        """All that must be said of the run beside its scores."""
        trained = [warning for config in self.configs for warning in config.warnings]
        return tuple(dict.fromkeys([*self.summary.warnings, *trained]))

    @property
    def budget(self) -> str:
        """How long it was fine-tuned: ``324 steps``, ``20 epochs`` in records without steps, empty without either."""
        stages = [timing.stages[_FINETUNE] for timing in self.timings if _FINETUNE in timing.stages]
        for unit in ("steps", "epochs"):
            known = [value for stage in stages if (value := getattr(stage, unit)) is not None]
            if known:
                return f"{round(fmean(known))} {unit}"
        return ""

    @property
    def identity(self) -> str:
        """A digest of what the run is but for its seed: equal in the seeds of one experiment.

        Digests of what was learned or drawn (stages, random teachers, slices of a pool) depend on the seed. What they
        were learned by is in the settings.
        """
        plain = to_plain(self.config)
        for name in ("seed", "name", "selection", "warnings"):
            del plain[name]
        if plain["base"] and plain["base"]["origin"] == "bootstrap":
            del plain["base"]["digest"]
        del plain["pool"]["key"]
        for stage in plain["stages"]:
            del stage["digest"]
        for teacher in plain["teachers"].values():
            if teacher["origin"] == "random":
                del teacher["weights"], teacher["identity"]
        return digest_json({**plain, "folds": self.folds})


def read_run(place: str, results: Path, *, allow_code: bool = False) -> ScoredRun:
    """Read a run or one of its folds, by path or by a part of its name (``contracts.run_folders``).

    Several numbered folds are summed up, one row per case.

    Raises:
        AssetError: ``E-CMP-01`` when nothing there is a scored run.
        UsageError: ``E-RUN-24`` several runs have this part of a name; ``E-CMP-02`` when the folds of one score cases
            by different rules, so that one has to be named.
        DataError: ``E-CODE-01`` for a config that names code while ``allow_code`` is off, ``E-EVAL-05`` for folds that
            do not fit together, ``E-JSON-..`` for records that cannot be read.
    """
    folder = find_run_folder(place, results, _is_scored)
    if folder is None:
        found = f"no run {place}, here or under {results}"
        runs = [run_label(run) for run in run_folders(results) if _is_scored(run)]
        if not runs:
            raise AssetError("E-CMP-01", found=found)
        raise AssetError("E-CMP-01", found=found, **suggestion(place, runs))
    if (folder / CONFIG_FILE).is_file():
        return _read([folder], f"{folder.parent.name}/{folder.name}", folder, allow_code)
    folds = sorted(fold for fold in folder.glob(f"{FOLD_PREFIX}*") if (fold / CONFIG_FILE).is_file())
    numbered = [fold for fold in folds if fold.name.removeprefix(FOLD_PREFIX).isdigit()]
    if not folds:
        raise AssetError("E-CMP-01", found=f"no {FOLD_PREFIX}K with a {CONFIG_FILE} in {folder}")
    if len(folds) > 1 and len(numbered) < len(folds):
        raise UsageError(
            "E-CMP-02", folder=folder, place=place, name=folds[-1].name, found=", ".join(fold.name for fold in folds)
        )
    return _read(folds, folder.name, folder, allow_code)


def _is_scored(run: Path) -> bool:
    return any(run.glob(f"{FOLD_PREFIX}*/{SUMMARY_FILE}"))


def distinct_labels(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """Give runs of one name as much of their path as distinguishes them; a folder named twice is numbered."""
    depths = [run.label.count("/") + 1 for run in runs]
    labels = [run.label for run in runs]
    for _ in range(3):
        times = Counter({run.folder: label for run, label in zip(runs, labels, strict=True)}.values())
        depths = [depth + (times[label] > 1) for depth, label in zip(depths, labels, strict=True)]
        labels = ["/".join(run.folder.parts[-depth:]) for run, depth in zip(runs, depths, strict=True)]
    seen: Counter[str] = Counter()
    distinct = []
    for run, label in zip(runs, labels, strict=True):
        seen[label] += 1
        distinct.append(replace(run, label=label if seen[label] == 1 else f"{label} ({seen[label]})"))
    return distinct


def _read(folds: Sequence[Path], label: str, folder: Path, allow_code: bool) -> ScoredRun:
    if len(folds) == 1 and not (folds[0] / SUMMARY_FILE).is_file():
        raise AssetError("E-CMP-01", found=f"{folds[0]} is not scored: it holds no {SUMMARY_FILE}")
    timed = [fold / TIMING_FILE for fold in folds]
    return ScoredRun(
        folder=folder,
        label=label,
        configs=tuple(read_run_config(fold / CONFIG_FILE, allow_code=allow_code) for fold in folds),
        timings=tuple(read_json(Timing, path) for path in timed if path.is_file()),
        summary=read_json(Summary, folds[0] / SUMMARY_FILE) if len(folds) == 1 else sum_up_folds(folder),
    )
