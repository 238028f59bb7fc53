"""A scored run without training or predicting: masks with known faults beside a tiny network with random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.contracts.run import CONFIG_FILE, SUMMARY_FILE, VALIDATION_FOLDER, RunConfig
from samora_pipeline.contracts.stored_case import StoredCase
from samora_pipeline.contracts.timing import TIMING_FILE, StageTiming, Timing
from samora_pipeline.evaluation.scoring import Rules, score_files
from samora_pipeline.evaluation.summary import label_names, summarize
from samora_pipeline.evaluation.tables import write_summary
from samora_pipeline.imaging.files import read_volume, write_labels
from samora_pipeline.imaging.intensity import measure
from samora_pipeline.imaging.preprocessor import labels_to_slices, to_slices
from samora_pipeline.reporting.report_run import Places
from samora_pipeline.slices.store import write_case
from tests.fake_run import DATASET, LABELS, RUN, make_plans, write_fake_run, write_image

SHAPE = (28, 24, 5)
# Voxels by which a case's prediction is shifted: the larger, the worse.
SHIFTS = {"near": 1, "far": 6, "middle": 3, "exact": 0}


def write_scored_run(
    root: Path,
    *,
    run: str = RUN,
    shifts: Mapping[str, int] = SHIFTS,
    labels: LabelScheme = LABELS,
    stamps: tuple[str, ...] = ("PHANTOM",),
    patients: Mapping[str, str] | None = None,
    trained: Sequence[str] | None = ("fusion", "decoder", "prompt"),
    spec: ModelSpec | None = None,
    whole_cases: bool = False,
) -> Path:
    """Write raw scans, a store, and a run whose predictions are the references shifted; return the run's folder.

    The first case counts as labelled: two slices of it, or with ``whole_cases`` all.
    """
    plans = make_plans()
    folder = write_fake_run(root / "results", run=run, plans=plans, labels=labels, stamps=stamps, spec=spec)
    fold = folder / "fold_0"
    pairs = [_write_case(root, fold, name, shift, labels) for name, shift in shifts.items()]
    config = read_json(RunConfig, fold / CONFIG_FILE)
    names = tuple(shifts)
    selection = replace(config.selection, cases=names[:1], slices={} if whole_cases else {names[0]: (2, 3)})
    write_json(replace(config, selection=selection, scored=names), fold / CONFIG_FILE)
    if trained is not None:
        _note_trained(fold, trained)
    scores = score_files(pairs, Rules(labels, 2.0, True), patients or {}, fold="0")
    write_summary(summarize(scores, label_names(labels), stamps=stamps), fold / SUMMARY_FILE)
    lines = [{"stage": "finetune", "epoch": epoch, "loss": 1 / epoch, "lr": 0.01, "seconds": 2.0} for epoch in (1, 2)]
    (fold / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(Timing(device="cpu", stages={"finetune": StageTiming(4.0, 1.5, 2)}), fold / TIMING_FILE)
    return folder


def places(root: Path) -> Places:
    """Where ``write_scored_run`` writes."""
    dataset = root / "results" / DATASET
    return Places(root / "raw" / DATASET, root / "preprocessed" / DATASET, dataset / "pretraining", root / "weights")


def _write_case(root: Path, fold: Path, name: str, shift: int, labels: LabelScheme) -> tuple[Path, Path]:
    raw, store = root / "raw" / DATASET, root / "preprocessed" / DATASET / "slices"
    reference = _reference(labels)
    image = (np.random.default_rng(len(name)).normal(0, 20, SHAPE) + 60.0 * reference).astype(np.int16)
    scan = read_volume(write_image(raw / "imagesTs" / f"{name}_0000.nii.gz", image))
    paths = raw / "labelsTs" / f"{name}.nii.gz", fold / VALIDATION_FOLDER / f"{name}.nii.gz"
    predicted = np.where(reference == (labels.ignore or 255), 0, reference).astype(np.uint8)
    for path, array in zip(paths, (reference, np.roll(predicted, shift, axis=0)), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, array, scan)
    names = {**{own: list(values) if len(values) > 1 else values[0] for own, values in labels.foreground}}
    declared = {"background": 0, **names, **({"ignore": labels.ignore} if labels.ignore else {})}
    order = {"regions_class_order": list(labels.region_order)} if labels.regions else {}
    description = {"channel_names": {"0": "CT"}, "labels": declared, "numTraining": 0, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps({**description, **order}))
    slices, geometry = to_slices((scan,), "axial")
    stack = labels_to_slices(read_volume(paths[0]), geometry)
    pixels = {own: tuple(np.isin(stack, values).sum(axis=(1, 2)).tolist()) for own, values in labels.foreground}
    record = StoredCase(name, "test", (0, 0, 0), "", geometry, (measure(slices),), (), None, "digest", pixels)
    write_case(store, record, slices, stack)
    return paths


def _reference(labels: LabelScheme) -> npt.NDArray[np.uint8]:
    """A box of every label value, side by side along the second axis, in all slices but the first."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    values = sorted(labels.values - {0})
    width = (SHAPE[1] - 4) // len(values)
    for place, value in enumerate(values):
        array[8:16, 2 + place * width : 2 + (place + 1) * width, 1:] = value
    return array


def _note_trained(fold: Path, trained: Sequence[str]) -> None:
    from samora_pipeline.contracts.checkpoints import load_checkpoint, save_checkpoint
    from samora_pipeline.contracts.run import FINAL_CHECKPOINT

    checkpoint = load_checkpoint(fold / FINAL_CHECKPOINT)
    save_checkpoint(fold / FINAL_CHECKPOINT, checkpoint.tensors, {**checkpoint.record, "trained": list(trained)})


class ReadPage(HTMLParser):
    """A page taken apart: every element with its attributes, the rows of each table, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: list[str] = []
        self.raw: dict[str, str] = {}
        self._open: list[str] = []
        self._table = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.elements.append((tag, known))
        if tag in ("script", "style"):
            self._open.append(known.get("id", tag))
        if tag == "table":
            self._table = known["id"]
            self.tables[self._table] = []
        elif tag == "tr" and self._table:
            self.tables[self._table].append([])
        elif tag in ("td", "th") and self._table:
            self.tables[self._table][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._open.pop()
        if tag == "table":
            self._table = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.raw[self._open[-1]] = self.raw.get(self._open[-1], "") + data
            return
        self.texts.append(data)
        if self._table and self.tables[self._table] and self.tables[self._table][-1]:
            self.tables[self._table][-1][-1] += data.strip()

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        """Everything that is shown."""
        return " ".join(" ".join(self.texts).split())
