"""A trained run as a zip or a folder: what is in it, what is not, and that it predicts the same elsewhere."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from samora_pipeline.contracts.dataset import DatasetJson, SamoraJson, write_dataset
from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.postprocessing import POSTPROCESSING_FILE, PostProcessing
from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT, SUMMARY_FILE, RunConfig, TeacherRecord
from samora_pipeline.evaluation.summary import label_names, summarize
from samora_pipeline.exported.contents import DIGESTS_FILE, MODEL_FILE, DigestsJson, ModelJson
from samora_pipeline.files import digest_file
from samora_pipeline.handover.cli import main as export_main
from samora_pipeline.handover.import_cli import main as import_main
from samora_pipeline.inference.cli import main as predict_main
from samora_pipeline.weights.records import WeightsRecord, write_record
from tests.fake_run import DATASET, LABELS, RUN, case_scores, sign, write_fake_run, write_image

SECRET = ("mueller_anna_1961", "doe_john_1970", "held_out_patient", "pool_patient_7")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with a scored run of two folds whose cases have names that must not get out."""
    for name in ("RAW", "PREPROCESSED", "RESULTS", "WEIGHTS"):
        monkeypatch.delenv(f"SAMORA_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "root"
    run = write_fake_run(root / "results", folds=("0", "1"))
    for number, fold in enumerate(("0", "1")):
        _name_cases(run / f"fold_{fold}", number)
    samora = SamoraJson(citation="Anyone: the data, 2020", terms="CC-BY-4.0", phantom=True)
    description = DatasetJson({"0": "CT"}, {"background": 0, "liver": 1, "spleen": 2}, 4, ".nii.gz")
    write_dataset(root / "raw" / DATASET, description, samora)
    return root


def _name_cases(fold: Path, number: int) -> None:
    config = read_json(RunConfig, fold / CONFIG_FILE)
    config = replace(
        config,
        selection=replace(config.selection, cases=(SECRET[number],), slices={SECRET[number]: (1, 2)}),
        scored=(SECRET[1 - number],),
        held_out=(SECRET[2],),
        pool=replace(config.pool, cases={DATASET: SECRET}, excluded=(SECRET[1 - number],)),
        teachers={
            "patch": TeacherRecord("mae_vit_l", "/home/someone/mae_pretrain_vit_large.pth", "file", "CC-BY-NC-4.0")
        },
    )
    write_json(config, fold / CONFIG_FILE)
    write_json(PostProcessing((SECRET[2],), ()), fold / POSTPROCESSING_FILE)
    scores = case_scores({SECRET[1 - number]: (0.8, 0.5)}, LABELS, {}, config.fold)
    write_json(summarize(scores, label_names(LABELS), warnings=config.warnings), fold / SUMMARY_FILE)


def export(root: Path, target: str, *more: str) -> int:
    return export_main([f"{DATASET}/{RUN}", "--root", str(root), "-o", target, *more])


def predict(model: str, root: Path, scans: Path, out: Path) -> dict[str, np.ndarray]:
    words = ["--root", str(root), "-i", str(scans), "-o", str(out), "-m", model, "--device", "cpu", "--debug"]
    assert predict_main([*words, "--fp32"]) == 0
    return {path.name: np.asarray(nibabel.load(path).dataobj) for path in out.glob("*.nii.gz")}


@pytest.mark.parametrize("target", ["model.zip", "model"])
def test_what_is_imported_elsewhere_predicts_bit_equal(
    root: Path, tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        write_image(tmp_path / "scans" / f"s{seed}_0000.nii.gz", seed=seed)
    before = predict(f"{DATASET}/{RUN}", root, tmp_path / "scans", tmp_path / "here")
    assert export(root, target) == 0
    assert import_main([target, "--root", "elsewhere"]) == 0
    said = capsys.readouterr().out
    assert "all digests right" in said
    assert "warning: PHANTOM" in said
    root.rename(tmp_path / "gone")
    after = predict(f"{DATASET}/{RUN}", Path("elsewhere"), tmp_path / "scans", tmp_path / "there")
    assert set(before) == set(after) == {"s0.nii.gz", "s1.nii.gz"}
    for name, labels in before.items():
        assert len(np.unique(labels)) > 1
        assert np.array_equal(labels, after[name])
    if target == "model":
        unpacked = predict(target, Path("nowhere"), tmp_path / "scans", tmp_path / "as_it_is")
        assert all(np.array_equal(labels, unpacked[name]) for name, labels in before.items())


def test_no_name_of_a_case_and_no_path_is_in_it(root: Path, tmp_path: Path) -> None:
    assert export(root, "model.zip") == 0
    with zipfile.ZipFile("model.zip") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    for name, data in content.items():
        assert not any(secret.encode() in data for secret in (*SECRET, str(tmp_path), "/home/someone")), name
    config = json.loads(content["fold_0/config.json"])
    assert config["selection"]["cases"] == list(config["selection"]["slices"])
    assert config["scored"] == json.loads(content["fold_1/config.json"])["selection"]["cases"]
    assert len(set(config["pool"]["cases"][DATASET])) == 4
    assert config["teachers"]["patch"]["weights"] == "mae_pretrain_vit_large.pth"
    assert SUMMARY_FILE not in " ".join(content)


def test_digests_cover_every_file_and_equal_exports_are_equal_bytes(root: Path, tmp_path: Path) -> None:
    assert export(root, "model") == 0
    digests = read_json(DigestsJson, Path("model") / DIGESTS_FILE).files
    files = {path.relative_to("model").as_posix() for path in Path("model").rglob("*") if path.is_file()}
    assert set(digests) == files - {DIGESTS_FILE}
    assert all(digest_file(Path("model") / name) == known.sha256 for name, known in digests.items())
    assert export(root, "a.zip") == 0
    assert export(root, "b.zip") == 0
    assert digest_file(Path("a.zip")) == digest_file(Path("b.zip"))


def test_the_model_card_has_scores_with_intervals_terms_and_what_was_not_exercised(root: Path) -> None:
    assert export(root, "model") == 0
    model_card = Path("model/MODEL_CARD.md").read_text()
    assert model_card.startswith("---\nlicense: other\n")
    assert "**PHANTOM**" in model_card
    table = model_card.partition("protocol physical")[2].splitlines()
    scores = {line.split()[0]: line.split()[1:] for line in table if line}
    assert scores["liver"][:3] == ["2", "0.800", "[0.800,"]
    assert scores["mean"][:1] == ["0.650"]
    assert "| 1 | liver | #D55E00 |" in model_card
    for item in ("any real scan", "other sites", "more than 2 patients", "a GPU"):
        assert item in model_card.partition("## Not exercised")[2]
    assert "Not for commercial use: teacher of the patch level: mae_pretrain_vit_large.pth" in model_card
    assert "CC-BY-NC-4.0" in Path("model/LICENCES.md").read_text()
    citations = Path("model/CITATIONS.md").read_text()
    for text in ("SAMora: Enhancing", "Anyone: the data, 2020", "Masked Autoencoders"):
        assert text in citations


def test_an_imported_model_is_listed_with_the_scores_it_was_exported_with(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(root, "model.zip") == 0
    assert import_main(["model.zip", "--root", "elsewhere"]) == 0
    capsys.readouterr()
    for place, told in ((root, "0.650"), (Path("elsewhere"), "0.650 (as exported)")):
        assert predict_main(["--root", str(place), "--list"]) == 0
        _, line = capsys.readouterr().out.splitlines()
        assert f"  {told}  " in line
        assert ("exported" in line) == ("exported" in told)
    kept = json.loads(Path(f"elsewhere/results/{DATASET}/{RUN}/fold_0/scores.json").read_text())
    assert kept == {"dice": pytest.approx(0.65), "cases": 1, "patients": 1, "schema_version": 1}


def test_one_fold_has_its_own_scores(root: Path) -> None:
    assert export(root, "model", "-f", "1") == 0
    model_card = Path("model/MODEL_CARD.md").read_text()
    assert "1 case of 1 patient;" in model_card
    assert "Folds 1." in model_card
    assert "other folds than 1" in model_card
    assert read_json(ModelJson, Path("model") / MODEL_FILE).folds == ("1",)
    assert not Path("model/fold_0").exists()


def test_an_unscored_run_says_so(root: Path) -> None:
    for path in root.rglob(SUMMARY_FILE):
        path.unlink()
    assert export(root, "model") == 0
    assert "Nothing was scored." in Path("model/MODEL_CARD.md").read_text()


@pytest.mark.parametrize(("licence", "goes"), [("Apache-2.0", True), ("CC-BY-NC-4.0", False), ("", False)])
def test_a_base_goes_with_it_only_where_its_licence_allows(
    root: Path, licence: str, goes: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run, weights = root / "results" / DATASET / RUN, root / "weights"
    weights.mkdir()
    own = weights / "mine.safetensors"
    (run / "base.safetensors").rename(own)
    digest = digest_file(own)
    if licence:
        write_record(own, WeightsRecord("mine", own.stat().st_size, digest, "first use", licence, False, "x"))
    for fold in ("0", "1"):
        config = read_json(RunConfig, run / f"fold_{fold}" / CONFIG_FILE)
        assert config.base is not None
        base = replace(config.base, name=str(own), origin="file")
        write_json(replace(config, base=base), run / f"fold_{fold}" / CONFIG_FILE)
    assert export(root, "model") == 0
    assert Path("model/base.safetensors").is_file() == goes
    shared = read_json(ModelJson, Path("model") / MODEL_FILE).bases
    assert [(base.name, base.digest, base.licence, bool(base.file)) for base in shared] == [
        ("mine.safetensors", digest, licence, goes)
    ]
    capsys.readouterr()
    assert import_main(["model", "--root", "elsewhere"]) == 0
    assert ("is not part of it" in capsys.readouterr().out) != goes
    assert export(root, "bare.zip", "--without-base") == 0
    assert not any(name.startswith("base") for name in zipfile.ZipFile("bare.zip").namelist())


def test_targets_that_are_there_and_folds_that_cannot_be_named_are_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("model.zip").write_text("mine")
    assert export(root, "model.zip") == 4
    assert "E-EXPORT-01" in capsys.readouterr().err
    assert Path("model.zip").read_text() == "mine"
    run = root / "results" / DATASET / RUN
    (run / "fold_1").rename(run / "fold_with space")
    assert export(root, "other.zip") == 4
    assert "E-EXPORT-02" in capsys.readouterr().err
    assert not Path("other.zip").exists()
    assert export_main(["nothing", "--root", str(root), "-o", "x"]) == 5


def test_regions_are_exported_with_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scheme = LabelScheme({"whole": (1, 2), "core": (2,)}, region_order=(1, 2))
    write_fake_run(tmp_path / "root" / "results", labels=scheme)
    assert export(tmp_path / "root", "model") == 0
    assert "| 1 | whole without core |" in Path("model/MODEL_CARD.md").read_text()


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_damaged_checkpoint_is_not_handed_on(
    root: Path, damage: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = root / "results" / DATASET / RUN / "fold_1" / FINAL_CHECKPOINT
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    assert export(root, "model.zip") == 4
    assert "E-CKPT-02" in capsys.readouterr().err
    assert not Path("model.zip").exists()


@pytest.mark.parametrize("name", [f"results/{DATASET}/{RUN}/fold_0/{SUMMARY_FILE}", f"raw/{DATASET}/samora.json"])
def test_scores_and_terms_that_cannot_be_read_are_not_left_out(
    root: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / name).write_text("{")
    assert export(root, "model.zip") == 4
    assert "E-JSON-02" in capsys.readouterr().err
    assert not Path("model.zip").exists()
    (root / name).unlink()
    (root / name).mkdir()
    assert export(root, "model.zip") == 4
    assert not Path("model.zip").exists()


def test_names_with_slashes_stay_what_the_network_was_trained_with(root: Path) -> None:
    run = root / "results" / DATASET / RUN
    for fold in ("0", "1"):
        config = read_json(RunConfig, run / f"fold_{fold}" / CONFIG_FILE)
        config = replace(config, plans=replace(config.plans, channel_names=("T1/T2",)))
        write_json(config, run / f"fold_{fold}" / CONFIG_FILE)
        sign(run / f"fold_{fold}")
    assert export(root, "model.zip") == 0
    assert import_main(["model.zip", "--root", "elsewhere"]) == 0


def test_texts_of_others_are_no_markup_in_the_model_card(root: Path) -> None:
    hostile = "<script>alert(1)</script>[x](javascript:alert(2))"
    raw = root / "raw" / DATASET
    description = DatasetJson({"0": "CT"}, {"background": 0, "liver": 1, "spleen": 2}, 4, ".nii.gz")
    write_dataset(raw, description, SamoraJson(citation=hostile, terms=hostile))
    assert export(root, "model") == 0
    for name in ("MODEL_CARD.md", "LICENCES.md", "CITATIONS.md"):
        text = (Path("model") / name).read_text()
        assert "alert(1)" in text
        assert "<script" not in text
        assert "](javascript" not in text


def test_what_a_killed_export_or_import_left_is_removed_and_never_listed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path.cwd() / ".partial-1234-model.zip").touch()
    assert export(root, "model.zip") == 0
    assert not list(Path.cwd().glob(".partial-*"))
    left = root / "results" / DATASET / f".partial-1234-{RUN}"
    shutil.copytree(root / "results" / DATASET / RUN, left)
    capsys.readouterr()
    assert predict_main(["--root", str(root), "--list"]) == 0
    assert ".partial" not in capsys.readouterr().out
    (root / "results" / DATASET / RUN).rename(root / "results" / "elsewhere")
    assert import_main(["model.zip", "--root", str(root)]) == 0
    assert not left.exists()


def test_a_damaged_record_of_the_base_is_not_taken_for_no_licence(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, weights = root / "results" / DATASET / RUN, root / "weights"
    weights.mkdir()
    own = weights / "mine.safetensors"
    (run / "base.safetensors").rename(own)
    for fold in ("0", "1"):
        config = read_json(RunConfig, run / f"fold_{fold}" / CONFIG_FILE)
        assert config.base is not None
        base = replace(config.base, name=str(own), origin="file")
        write_json(replace(config, base=base), run / f"fold_{fold}" / CONFIG_FILE)
    own.with_name("mine.safetensors.json").write_text("{")
    assert export(root, "model") == 4
    assert "E-JSON-02" in capsys.readouterr().err
