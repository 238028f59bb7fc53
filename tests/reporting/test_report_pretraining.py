from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image

from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.contracts.monitoring import (
    EXPERTS_FILE,
    MONITORING_FILE,
    MONITORING_PICTURE,
    ExpertsReport,
    Measure,
    MonitoringReport,
)
from samora_pipeline.contracts.run import CONFIG_FILE, RunConfig, StageRecord
from samora_pipeline.evaluation.run_scores import read_run
from samora_pipeline.reporting.html_blocks import Block, Figure, Note, Table, cell
from samora_pipeline.reporting.report_run import ReportedRun
from samora_pipeline.reporting.report_training import pretraining_section
from tests.fake_run import places, write_reported_run

MEASURES = (
    Measure("gap", -0.02, "above 0", False, "what LoRA gains", "train for longer"),
    Measure("feature_rank", 4.0, "", None, "effective rank"),
)
MONITORED = MonitoringReport("expert_image", "warn", "", 2, 30, 8, 100, 2.0, 0.1, 9.0, 0.1, None, 0, MEASURES)
LINES = "".join(json.dumps({"stage": "s", "epoch": epoch, "loss": 1.0 / epoch}) + "\n" for epoch in (1, 2))


def with_stages(root: Path) -> ReportedRun:
    """An image expert with a monitoring report, a pixel expert with a log alone; others without folders."""
    folder = write_reported_run(root, shifts={"a": 1})
    path = folder / "fold_0" / CONFIG_FILE
    keys = {"teacher_patch": "teacher-key", "expert_image": "key1", "expert_patch": "gone", "expert_pixel": "key2"}
    stages = tuple(StageRecord(name, "Stage", key, {}) for name, key in keys.items())
    write_json(replace(read_json(RunConfig, path), stages=stages), path)
    own = places(root)
    for key, stage in (("key1", "expert_image"), ("key2", "expert_pixel")):
        (own.pretraining / key / stage).mkdir(parents=True)
        (own.pretraining / key / stage / "log.jsonl").write_text(LINES)
    write_json(MONITORED, own.pretraining / "key1" / "expert_image" / MONITORING_FILE)
    PIL.Image.fromarray(np.zeros((30, 2000, 3), np.uint8)).save(
        own.pretraining / "key1" / "expert_image" / MONITORING_PICTURE
    )
    similarity = ((1.0, 0.5), (0.5, 1.0))
    write_json(
        ExpertsReport("pass", 8, ("base", "image"), similarity, (0.1, 0.1), 0.3, ()),
        folder / "fold_0" / EXPERTS_FILE,
    )
    return ReportedRun(read_run(str(folder), folder.parent), own)


def test_monitoring_reports_are_shown_and_what_is_gone_is_told(tmp_path: Path) -> None:
    blocks = pretraining_section(with_stages(tmp_path), ("PHANTOM",)).blocks
    by_name: dict[str, Block] = {block.name: block for block in blocks if not isinstance(block, Note)}
    report = by_name["monitoring-expert_image-key1"]
    assert isinstance(report, Table)
    assert report.caption.endswith("WARN")
    assert [cell(value, report.digits).text for value in report.rows[0]] == [
        *("gap", "-0.02", "WARN", "above 0", "what LoRA gains", "train for longer")
    ]
    more = by_name["monitoring-expert_image-key1-more"]
    assert isinstance(more, Table)
    assert more.folded
    picture = by_name["picture-expert_image-key1"]
    assert isinstance(picture, Figure)
    assert picture.image.width == 900
    assert "curves-expert_pixel-key2" in by_name
    assert "curves-expert_image-key1" not in by_name
    similarity = by_name["similarity-0"]
    assert isinstance(similarity, Table)
    assert [cell(value, similarity.digits).text for value in similarity.rows[1]] == ["image", "0.500", "1.000"]
    told = [block.text for block in blocks if isinstance(block, Note)]
    assert [text.split(":")[0] for text in told if "not there" in text] == [
        "teacher_patch teacher-key",
        "expert_patch gone",
    ]


def test_a_run_without_experts_says_so(tmp_path: Path) -> None:
    folder = write_reported_run(tmp_path, shifts={"a": 1})
    run = ReportedRun(read_run(str(folder), folder.parent), places(tmp_path))
    (note,) = pretraining_section(run, ()).blocks
    assert isinstance(note, Note)
    assert "No expert of this run was trained without labels" in note.text
