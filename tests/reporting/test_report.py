from __future__ import annotations

import base64
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from samora_pipeline.contracts import run as contracts
from samora_pipeline.contracts.colours import VERMILLION, rgb
from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import LEVELS
from samora_pipeline.contracts.run import SUMMARY_FILE, Choice, RunConfig
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.evaluation.run_scores import read_run
from samora_pipeline.reporting.pictures import case_mean
from samora_pipeline.reporting.report import LARGEST, explanations_of, write_report
from samora_pipeline.reporting.report_run import ReportedRun
from tests.fake_run import REGIONS, places, write_reported_run
from tests.inference.test_every_model import tiny_spec
from tests.reporting.read_page import ReadPage
from trainers.methods import TRAINERS

CPU = torch.device("cpu")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)> $\\frac{"


def report_of(folder: Path, root: Path) -> str:
    run = ReportedRun(read_run(str(folder), folder.parent), places(root))
    return write_report(run, folder / "report.html", CPU).read_text()


@pytest.fixture(scope="module")
def written(reported: Path) -> tuple[Path, str]:
    return reported, (reported / "report.html").read_text()


def test_the_page_tells_what_the_summary_holds(written: tuple[Path, str]) -> None:
    folder, html = written
    page = ReadPage(html)
    summary = read_json(Summary, folder / "fold_0" / SUMMARY_FILE)
    rows = page.tables["cases"][1:]
    assert len(rows) == summary.n
    shown = {row[0].split(" ")[0]: float(row[2]) for row in rows}
    assert shown == {row.case: pytest.approx(case_mean(row), abs=5e-4) for row in summary.metric_per_case}
    worst = next(row[0] for row in rows if "(worst)" in row[0])
    assert worst == f"{min(shown, key=shown.__getitem__)} (worst)" == "far (worst)"
    organs = {row[0]: row[2].split(" ")[0] for row in page.tables["organ-table"][1:]}
    assert organs["mean"] == f"{summary.foreground_mean.Dice:.3f}"
    assert organs["liver"] == f"{summary.mean['1'].Dice:.3f}"
    assert f"Mean Dice {summary.foreground_mean.Dice:.3f}" in page.text
    assert "n = 4 patients cannot support a ranking" in page.text


def test_every_part_is_there(written: tuple[Path, str]) -> None:
    page = ReadPage(written[1])
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == [
        *("organs", "case-list", "pictures", "experts", "attention"),
        *("training", "pretraining", "data", "record"),
    ]
    assert "Left out" not in page.text
    figures = {attributes.get("id", "") for attributes in page.all("figure")}
    wanted = {"organ-figure", "case-worst", "case-median", "case-best", "experts-figure", "relevance", "curves-0"}
    assert wanted | {"map", "contact-sheet"} <= figures
    assert {row[0] for row in page.tables["experts-dice"][1:]} == {
        *("all experts", "image alone", "patch alone", "pixel alone"),
        *("without image", "without patch", "without pixel", "no expert"),
    }
    agreement = {row[0]: float(row[1]) for row in page.tables["experts-agreement"][1:]}
    assert list(agreement) == [*(f"only {level}" for level in LEVELS), "some, not all", "all of them", "none of them"]
    assert sum(agreement.values()) == pytest.approx(100, abs=0.3)
    assert "HiResCAM" in page.text
    account = {row[0]: row[1:] for row in page.tables["account"][1:]}
    assert account["base"][1] == "0"
    assert account["fusion"][0] == account["fusion"][1]
    assert page.tables["budget"][1][:2] == ["liver", "2"]


def test_nothing_is_fetched_and_all_is_described(written: tuple[Path, str]) -> None:
    page = ReadPage(written[1])
    assert len(written[1].encode()) < LARGEST
    addresses = [value for _, own in page.elements for name, value in own.items() if name in ("src", "href", "data")]
    assert addresses
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    anchors = {own["id"] for _, own in page.elements if "id" in own}
    assert {address[1:] for address in addresses if address.startswith("#")} <= anchors
    assert all(own["alt"] and own["width"] and own["height"] for own in page.all("img"))
    assert not [name for _, own in page.elements for name in own if name.startswith("on") or name == "style"]
    assert len(anchors) == sum("id" in own for _, own in page.elements)


def test_a_phantom_says_so_on_every_figure_and_table(written: tuple[Path, str]) -> None:
    html = written[1]
    for part in html.split("<figure")[1:]:
        assert '<strong class="warning">PHANTOM</strong>' in part.split("</figure>")[0]
    for part in html.split('<p class="caption"')[1:]:
        assert '<strong class="warning">PHANTOM</strong>' in part.split("</p>")[0]
    assert '<div class="banner"' in html
    assert "The scans are synthetic" in html


def test_the_flag_is_burned_into_every_picture(written: tuple[Path, str]) -> None:
    # What is laid on the scan of a viewer is transparent, and the scan below it carries the warning.
    pictures = [own["src"] for own in ReadPage(written[1]).all("img") if own.get("class") != "overlay"]
    slices = json.loads(ReadPage(written[1]).raw["slices"])
    pictures += [scan for viewer in slices.values() for _, scan, *_ in viewer]
    assert {address.partition(";")[0] for address in pictures} == {"data:image/svg+xml", "data:image/webp"}
    for address in pictures:
        content = base64.b64decode(address.partition(",")[2])
        if address.startswith("data:image/svg+xml"):
            assert b'style="fill: #d55e00"' in content
            continue
        corner = np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB"), dtype=int)[2, -8:]
        assert np.abs(corner - rgb(VERMILLION)).max() < 40


def test_every_flag_is_explained() -> None:
    warnings = [value for name, value in vars(contracts).items() if name.endswith("_FLAG")]
    assert len(warnings) >= 7
    for warning in warnings:
        assert len(explanations_of((f"{warning} (a run)",))) == 1, warning


@pytest.mark.parametrize("name", TRAINERS.names())
def test_the_network_of_every_trainer_is_asked(tmp_path: Path, name: str) -> None:
    folder = write_reported_run(tmp_path, run=f"{name}__full__default", shifts={"a": 2, "b": 1}, spec=tiny_spec(name))
    page = ReadPage(report_of(folder, tmp_path))
    if TRAINERS.get(name).network is not None:
        assert "Left out" in page.text
        assert "lifts" not in page.tables
        return
    assert "Left out" not in page.text
    levels = TRAINERS.get(name)().levels
    assert ("experts-dice" in page.tables) == (len(levels) > 1)
    assert [row[0] for row in page.tables["lifts"][1:]] == ["liver", "spleen"]
    # Random weights may find nothing that speaks for an organ; a number that is missing is explained.
    assert any(row[2] == "-" for row in page.tables["lifts"][1:]) == ("nothing in the slice speaks for" in page.text)


def test_organs_without_a_picture_of_their_attention_are_named(tmp_path: Path) -> None:
    labels = LabelScheme({f"organ_{value}": (value,) for value in range(1, 13)})
    page = ReadPage(report_of(write_reported_run(tmp_path, labels=labels, shifts={"a": 1}), tmp_path))
    assert len(page.tables["lifts"]) == 11
    assert "Beyond the 10 that are drawn: organ 11, organ 12." in page.text


def test_what_the_run_chose_is_shown_with_its_reasons(tmp_path: Path) -> None:
    folder = write_reported_run(tmp_path, shifts={"a": 1})
    for path in folder.glob("fold_*/config.json"):
        config = read_json(RunConfig, path)
        write_json(replace(config, choices={"backbone": Choice("samora_tiny", "no GPU: <b>")}), path)
    page = ReadPage(report_of(folder, tmp_path))
    assert page.tables["choices"] == [["setting", "is", "because"], ["backbone", "samora_tiny", "no GPU: <b>"]]


@pytest.mark.parametrize("whole", [True, False])
def test_labelled_cases_are_marked_in_the_map_whether_in_part_or_whole(tmp_path: Path, whole: bool) -> None:
    page = ReadPage(report_of(write_reported_run(tmp_path, shifts={"a": 1, "b": 2}, whole_cases=whole), tmp_path))
    (picture,) = (own for own in page.all("img") if own["alt"].startswith("Map of organs"))
    drawing = base64.b64decode(picture["src"].partition(",")[2]).decode()
    # One line for each organ in the one labelled case, or two dots.
    assert drawing.count("stroke: #e69f00") == (2 if whole else 0)
    assert ("fill: #e69f00" in drawing) != whole


def test_a_full_device_costs_the_parts_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: Path
) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nand more")

    monkeypatch.setattr("samora_pipeline.reporting.report.attention_section", full)
    run = ReportedRun(read_run(str(reported), reported.parent), places(reported.parents[2]))
    page = ReadPage(write_report(run, tmp_path / "report.html", CPU).read_text())
    assert "the device has too little memory for this part of a report (E-REPORT-05)" in page.text
    assert "experts-dice" in page.tables


def test_names_from_files_are_only_text(tmp_path: Path) -> None:
    labels = LabelScheme({HOSTILE: (1,), "spleen": (2,)})
    shifts = {"<script>alert(2)<b>": 4, "b&amp;'\"": 1}
    patients = {"b&amp;'\"": HOSTILE}
    folder = write_reported_run(tmp_path, labels=labels, shifts=shifts, warnings=(HOSTILE,), patients=patients)
    page = ReadPage(report_of(folder, tmp_path))
    assert len(page.all("script")) == 2
    assert not page.all("b")
    assert all(own["src"].startswith("data:image/") for own in page.all("img"))
    assert page.tables["organ-table"][1][0] == HOSTILE
    assert page.tables["cases"][1][0].startswith("<script>alert(2)<b>")
    assert page.tables["cases"][2][:2] == ["b&amp;'\" (best)", HOSTILE]
    assert not [name for _, own in page.elements for name in own if name.startswith("on")]


def test_a_moved_run_gives_the_same_page_and_one_without_scans_says_what_is_missing(
    tmp_path: Path, written: tuple[Path, str]
) -> None:
    folder, html = written
    moved = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, moved)
    root = folder.parents[2]
    run = ReportedRun(read_run(str(moved), tmp_path), places(root))
    assert write_report(run, moved / "again.html", CPU).read_text() == html
    assert str(root) not in html
    alone = ReadPage(report_of(moved, tmp_path))
    assert alone.tables["cases"] == ReadPage(html).tables["cases"]
    assert "has no dataset.json" in alone.text
    assert "the preprocessed dataset is missing" in alone.text


def test_a_missing_base_or_a_damaged_record_costs_only_its_own_section(tmp_path: Path) -> None:
    folder = write_reported_run(tmp_path, trained=None)
    (folder / "base.safetensors").unlink()
    (folder / "fold_0" / "log.jsonl").write_text('{"epoch": 1}\nnonsense\n{"epoch": 2}\n')
    page = ReadPage(report_of(folder, tmp_path))
    assert "the base encoder bootstrap that this run was trained on is not there (E-WEIGHT-05)" in page.text
    assert "log.jsonl is damaged (E-REPORT-02)" in page.text
    assert page.tables["account"][1][2] == "not recorded"
    assert {"case-worst", "case-median", "case-best"} <= {own.get("id") for own in page.all("figure")}


def test_regions_and_ignored_voxels_are_drawn(tmp_path: Path) -> None:
    folder = write_reported_run(tmp_path, labels=REGIONS, shifts={"a": 2}, warnings=())
    page = ReadPage(report_of(folder, tmp_path))
    assert "Left out" not in page.text
    assert [row[0] for row in page.tables["organ-table"][1:]] == ["whole", "core", "mean"]
    assert not page.all("strong") or "PHANTOM" not in page.text
