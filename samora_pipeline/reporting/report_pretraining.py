"""What a run's experts and teachers learned without labels: curves, and the cards that its stages left behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.pretraining_card import (
    CARD_FILE,
    CARD_PICTURE,
    EXPERTS_CARD_FILE,
    EXPERTS_CARD_PICTURE,
    ExpertsCard,
    Measure,
    PretrainingCard,
)
from samora_pipeline.reporting.html_blocks import Block, Cell, Figure, Note, Section, Table, Value
from samora_pipeline.reporting.html_images import shrunk_image
from samora_pipeline.reporting.report_run import LOG_FILE, ReportedRun, read_log
from samora_pipeline.reporting.report_training import curves_figure, epochs_table
from samora_pipeline.reporting.run_facts import pretrained_stages

_CARD_WIDTH = 900
_PASSED = {True: "pass", False: "WARN", None: ""}


def pretraining_section(run: ReportedRun, stamps: tuple[str, ...]) -> Section:
    """Every stage without labels that the run used, and how alike its experts are."""
    blocks: list[Block] = []
    for stage, key in pretrained_stages(run.scored.configs):
        folder = run.places.pretraining / key / stage
        if folder.is_dir():
            blocks += _stage_blocks(stage, key, folder, stamps)
        else:
            blocks.append(Note(f"{stage} {key}: its folder is not there, so its monitors are left out."))
    for fold, folder in run.folds.items():
        blocks += _experts_blocks(fold, folder, stamps)
    if not blocks:
        blocks.append(Note("No expert of this run was trained without labels."))
    return Section("pretraining", tuple(blocks))


def _stage_blocks(stage: str, key: str, folder: Path, stamps: tuple[str, ...]) -> Iterator[Block]:
    title, name = f"{stage.replace('_', ' ')} {key}", f"{stage}-{key}"
    log = read_log(folder / LOG_FILE)
    if (folder / CARD_FILE).is_file():
        card = read_json(PretrainingCard, folder / CARD_FILE)
        own = tuple(dict.fromkeys((*stamps, *card.stamps)))
        notes = (
            f"Seen on {card.panel_slices} slices of a pool of {card.pool_slices}, after {card.epochs} epochs.",
            *((f"Taught by {card.taught_by}.",) if card.taught_by else ()),
            *((f"Stamps: {', '.join(card.stamps)}.",) if card.stamps else ()),
        )
        yield from measure_tables(f"card-{name}", f"{title}: {card.verdict.upper()}", card.measures, notes)
        yield from _picture(folder / CARD_PICTURE, f"picture-{name}", f"{title}, card of its monitors", own)
    else:
        yield Note(f"{title} has no card of monitors; its curves follow.")
        if log:
            yield curves_figure(f"curves-{name}", title, log, stamps)
    if log:
        yield replace(epochs_table(f"epochs-{name}", f"{title}: first and last epochs", log), folded=True)


def _experts_blocks(fold: str, folder: Path, stamps: tuple[str, ...]) -> Iterator[Block]:
    if not (folder / EXPERTS_CARD_FILE).is_file():
        return
    card = read_json(ExpertsCard, folder / EXPERTS_CARD_FILE)
    title = f"Experts side by side, fold {fold}"
    notes = ("Similarity is linear CKA of pooled features of the last block: 1 means alike up to rotation and scale.",)
    rows: list[tuple[Value, ...]] = [(name, *values) for name, values in zip(card.names, card.similarity, strict=True)]
    yield Table(f"similarity-{fold}", f"{title}: similarity", ("features of", *card.names), rows, notes=notes)
    yield from measure_tables(f"experts-card-{fold}", f"{title}: {card.verdict.upper()}", card.measures, ())
    yield from _picture(folder / EXPERTS_CARD_PICTURE, f"experts-card-picture-{fold}", title, stamps)


def measure_tables(name: str, caption: str, measures: Sequence[Measure], notes: tuple[str, ...]) -> Iterator[Table]:
    """Numbers that have a threshold, with verdict and advice; then, folded, those that are only shown."""
    judged = [one for one in measures if one.passed is not None]
    yield _measures_table(name, caption, judged, notes)
    if others := [one for one in measures if one.passed is None]:
        yield replace(_measures_table(f"{name}-more", f"{caption}, more measures", others, ()), folded=True)


def _measures_table(name: str, caption: str, measures: Sequence[Measure], notes: tuple[str, ...]) -> Table:
    rows: list[tuple[Value, ...]] = [
        (
            one.name.replace("_", " "),
            Cell(f"{one.value:.4g}", one.value),
            *(Cell(text) for text in (_PASSED[one.passed], one.wanted, one.meaning, one.advice)),
        )
        for one in measures
    ]
    return Table(name, caption, ("measure", "value", "verdict", "wanted", "meaning", "what to do"), rows, notes=notes)


def _picture(path: Path, name: str, text: str, stamps: tuple[str, ...]) -> Iterator[Figure]:
    if path.is_file():
        image = shrunk_image(path, _CARD_WIDTH, stamps)
        yield Figure(name, image, f"{text}; its numbers are in the table above", f"{text}.")
