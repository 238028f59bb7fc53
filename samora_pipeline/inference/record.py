"""run.json beside the predictions: which model made them, with which settings, and how to check each file.

While cases are being predicted each adds a line to run.jsonl, which becomes part of run.json at the end: to write a
record anew for every case would make the thousandth cost a thousand times what the first did.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from samora_pipeline.contracts.failures import FAILURES_FILE
from samora_pipeline.contracts.json_io import parse, read_json, to_plain, write_json
from samora_pipeline.contracts.postprocessing import read_steps
from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT, RunConfig
from samora_pipeline.errors import DataError
from samora_pipeline.files import append_text, digest_file, digest_json
from samora_pipeline.registry import shortened
from samora_pipeline.reproducibility import snapshot

if TYPE_CHECKING:
    from samora_pipeline.inference.predictor import Predictor

RECORD_STEM = "run"
_LINES = ".jsonl"


@dataclass(frozen=True)
class ModelRecord:
    """What determines the predictions: two equal records give equal files, up to the device's arithmetic.

    ``checkpoints`` and ``configs`` are SHA-256 digests per fold; ``base`` is the digest of the frozen encoder.
    ``largest_component`` names the labels of which only the largest component was kept, in that order.
    """

    run: str
    folds: tuple[str, ...]
    configs: dict[str, str]
    checkpoints: dict[str, str]
    base: str
    tta: bool = False
    save_probabilities: bool = False
    save_uncertainty: bool = False
    largest_component: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The digest of everything but the folder's place, so that a moved run stays the same run."""
        return digest_json({**to_plain(self), "run": Path(self.run).name})


@dataclass(frozen=True)
class CaseRecord:
    """One finished case: SHA-256 per input file and per output file, and the seconds of each phase."""

    settings: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    seconds: dict[str, float]


@dataclass(frozen=True)
class PredictionRecord:
    """run.json. ``settings`` of a case is the digest of the model it was made with.

    ``precision`` is that of the network's products (``bf16``, ``fp32``), ``precision_why`` the reason, and
    ``precision_seconds`` what was timed for it (``product_bf16``, ...; empty: nothing). ``slices_per_step`` is how many
    slices went together.
    """

    model: ModelRecord
    dataset: str
    device: str
    warnings: tuple[str, ...]
    versions: dict[str, str]
    cases: dict[str, CaseRecord] = field(default_factory=dict)
    precision: str = ""
    slices_per_step: int = 0
    precision_why: str = ""
    precision_seconds: dict[str, float] = field(default_factory=dict)
    schema_version: int = 2


def model_record(
    run: Path, folds: Mapping[str, Path], base: str, *, postprocessing: bool = True, **settings: bool
) -> ModelRecord:
    """The record of a run's fold folders, by name, on a base with the digest ``base``.

    ``settings``: ``tta``, ``save_probabilities``, ``save_uncertainty``.
    """
    return ModelRecord(
        run=str(run),
        folds=tuple(folds),
        configs={name: digest_file(folder / CONFIG_FILE) for name, folder in folds.items()},
        checkpoints={name: digest_file(folder / FINAL_CHECKPOINT) for name, folder in folds.items()},
        base=base,
        largest_component=tuple(step.name for step in read_steps(folds.values())) if postprocessing else (),
        **settings,
    )


def prediction_record(predictor: Predictor, model: ModelRecord, config: RunConfig) -> PredictionRecord:
    """The record of a predictor before its first case."""
    arithmetic = predictor.arithmetic
    return PredictionRecord(
        model,
        config.dataset,
        str(predictor.device),
        config.warnings,
        snapshot(),
        precision=arithmetic.name,
        slices_per_step=predictor.batch_size,
        precision_why=arithmetic.why,
        precision_seconds=dict(arithmetic.seconds),
    )


class OutputFolder:
    """The record of one output folder. Shares of a folder keep records of their own.

    With ``resume`` the earlier records of all shares are read, and ``finished`` tells what need not be done again.
    ``start``, ``add`` for every case, and ``conclude`` follow each other; a killed command leaves all that was added.
    """

    def __init__(self, folder: Path, model: ModelRecord, shard: tuple[int, int], *, resume: bool) -> None:
        self.folder = folder
        self.model = model
        part = "" if shard[1] == 1 else f".{shard[0]}_of_{shard[1]}"
        self._record_path = folder / f"{RECORD_STEM}{part}.json"
        self._lines_path = self._record_path.with_suffix(_LINES)
        self.failures_path = (folder / FAILURES_FILE).with_suffix(f"{part}.json")
        records = sorted(folder.glob(f"{RECORD_STEM}*.json")) if resume else []
        read = {path: {**read_json(PredictionRecord, path).cases, **dict(_added(path))} for path in records}
        self._own = read.get(self._record_path, {})
        self._earlier = {name: case for cases in read.values() for name, case in cases.items()}

    def refuse_strange(self, outputs: Iterable[Path]) -> None:
        """Refuse to write over files that no prediction of ours made.

        Raises:
            DataError: ``E-OUT-01`` when outputs exist in a folder without a record.
        """
        strange = sorted(path.name for path in outputs if path.exists())
        if strange and not any(self.folder.glob(f"{RECORD_STEM}*.json")):
            found = f"{shortened(strange)}, and no run.json that says where they come from"
            raise DataError("E-OUT-01", folder=self.folder, found=found)

    def start(self, record: PredictionRecord, finished: Iterable[str], to_do: Iterable[str]) -> None:
        """Begin a record that holds the ``finished`` cases, and what earlier runs of this command did besides."""
        again = set(to_do)
        others = {name: case for name, case in self._own.items() if name not in again}
        self._record = replace(record, cases={**others, **{name: self._earlier[name] for name in finished}})
        write_json(self._record, self._record_path)
        self._lines_path.unlink(missing_ok=True)
        self.failures_path.unlink(missing_ok=True)

    def finished(self, name: str, inputs: Iterable[Path], outputs: Iterable[Path]) -> bool:
        """Whether a case was made from the same inputs with the same settings, and its files are still whole."""
        case = self._earlier.get(name)
        if case is None or case.settings != self.model.digest:
            return False
        return case.inputs == _digests(inputs) and case.outputs == _digests(outputs)

    def add(self, name: str, inputs: Iterable[Path], outputs: Iterable[Path], seconds: dict[str, float]) -> None:
        """Record a case whose files have been written."""
        rounded = {phase: round(value, 3) for phase, value in seconds.items()}
        case = CaseRecord(self.model.digest, _digests(inputs), _digests(outputs), rounded)
        self._record.cases[name] = case
        append_text(self._lines_path, f"{json.dumps({name: to_plain(case)})}\n")

    def conclude(self) -> None:
        """Write all cases to run.json."""
        write_json(self._record, self._record_path)
        self._lines_path.unlink(missing_ok=True)


def _added(record: Path) -> Iterator[tuple[str, CaseRecord]]:
    """The cases that were added beside a record; a line that a kill or a full disk cut off ends them."""
    path = record.with_suffix(_LINES)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            cases = json.loads(line)
        except ValueError:
            return
        for name, case in cases.items():
            yield name, parse(CaseRecord, case, str(path))


def _digests(paths: Iterable[Path]) -> dict[str, str]:
    return {path.name: _digest(path) for path in paths}


def _digest(path: Path) -> str:
    """The digest of a file; empty where there is none that can be read."""
    try:
        return digest_file(path)
    except OSError:
        return ""
