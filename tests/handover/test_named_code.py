"""Code that a model's config.json names: no command imports it, unless the user allows that."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest

import samora_pipeline
from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.contracts.run import CONFIG_FILE, SUMMARY_FILE, VALIDATION_FOLDER
from samora_pipeline.errors import DataError
from samora_pipeline.evaluation.cli import main as evaluate_main
from samora_pipeline.evaluation.summary import label_names, summarize
from samora_pipeline.exported.contents import MODEL_FILE, ModelJson
from samora_pipeline.handover.cli import main as export_main
from samora_pipeline.handover.import_cli import main as import_main
from samora_pipeline.inference.cli import main as predict_main
from samora_pipeline.inference.predictor import Predictor
from samora_pipeline.reporting.compare_cli import main as compare_main
from samora_pipeline.reporting.report_cli import main as report_main
from tests.fake_run import DATASET, LABELS, case_scores, sign, write_fake_run, write_image

_INTRUDER = """
from pathlib import Path
from samora_pipeline.models.catalog import DECODERS

Path({marker!r}).touch()
Decoder = DECODERS.get("samed")
"""


@dataclass(frozen=True)
class Handed:
    """Two scored runs, of which the first names code that leaves a file when it is imported."""

    root: Path
    run: Path
    other: Path
    code: str
    marker: Path

    def imported(self) -> bool:
        return self.marker.exists()


@pytest.fixture
def handed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Handed:
    for name in ("RAW", "PREPROCESSED", "RESULTS", "WEIGHTS"):
        monkeypatch.delenv(f"SAMORA_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMORA_ROOT", str(tmp_path / "root"))
    module, marker = f"intruder_{uuid.uuid4().hex}", tmp_path / "imported"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / f"{module}.py").write_text(_INTRUDER.format(marker=str(marker)))
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    runs = [write_fake_run(tmp_path / "root" / "results", run=f"SAMoraTrainer__10pct__{n}") for n in ("one", "two")]
    for run in runs:
        scores = case_scores({"case_b": (0.8, 0.5), "case_c": (0.7, 0.6)}, LABELS, {}, "0")
        write_json(summarize(scores, label_names(LABELS)), run / "fold_0" / SUMMARY_FILE)
    path = runs[0] / "fold_0" / CONFIG_FILE
    plain = json.loads(path.read_text())
    plain["model"]["decoder"] = f"{module}:Decoder"
    path.write_text(json.dumps(plain))
    sign(runs[0] / "fold_0")
    write_image(tmp_path / "scans" / "a.nii.gz")
    return Handed(tmp_path / "root", runs[0], runs[1], f"{module}:Decoder", marker)


def test_predicting_needs_the_option(handed: Handed, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-i", "scans", "-o", "out", "-m", str(handed.run), "--device", "cpu"]
    assert predict_main(words) == 4
    said = capsys.readouterr().err
    assert "E-CODE-01" in said
    assert handed.code in said
    assert not handed.imported()
    assert not Path("out").exists()
    assert predict_main([*words, "--allow-code"]) == 0
    assert handed.imported()
    assert Path("out/a.nii.gz").is_file()


def test_the_predictor_needs_the_option(handed: Handed) -> None:
    with pytest.raises(DataError) as caught:
        Predictor.load(handed.run, device="cpu")
    assert caught.value.code == "E-CODE-01"
    assert not handed.imported()
    Predictor.load(handed.run, device="cpu", allow_code=True)
    assert handed.imported()


def test_reporting_needs_the_option(handed: Handed, capsys: pytest.CaptureFixture[str]) -> None:
    for runs in ([handed.run], [handed.other, handed.run]):
        assert report_main([*map(str, runs), "-o", "report.html"]) == 4
        assert "E-CODE-01" in capsys.readouterr().err
    assert not handed.imported()
    assert not Path("report.html").exists()
    assert report_main([str(handed.run), "-o", "report.html", "--allow-code"]) == 0
    assert Path("report.html").is_file()


@pytest.mark.parametrize("baseline", [False, True])
def test_comparing_needs_the_option_and_imports_nothing(
    handed: Handed, baseline: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(handed.other), "--baseline", str(handed.run)] if baseline else [str(handed.run), str(handed.other)]
    assert compare_main(words) == 4
    assert "E-CODE-01" in capsys.readouterr().err
    assert compare_main([*words, "--allow-code"]) == 0
    assert not handed.imported()


def test_the_list_names_the_run_and_imports_nothing(handed: Handed, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict_main(["--list"]) == 0
    line, other = capsys.readouterr().out.splitlines()[1:]
    assert handed.run.name in line
    assert "E-CODE-01" in line
    assert "E-CODE-01" not in other
    assert predict_main(["--list", "--allow-code"]) == 0
    assert "E-CODE-01" not in capsys.readouterr().out
    assert not handed.imported()


def test_an_export_states_the_code_and_every_command_needs_the_option_again(
    handed: Handed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_main([str(handed.run), "-o", "model"]) == 0
    assert read_json(ModelJson, Path("model") / MODEL_FILE).code == (handed.code,)
    assert handed.code in Path("model/MODEL_CARD.md").read_text()
    assert import_main(["model", "--root", "elsewhere"]) == 4
    assert "E-CODE-01" in capsys.readouterr().err
    assert not Path("elsewhere").exists()
    assert import_main(["model", "--root", "elsewhere", "--allow-code"]) == 0
    assert handed.code in capsys.readouterr().out
    assert not handed.imported()
    words = ["--root", "elsewhere", "-i", "scans", "-o", "out", "-m", f"{DATASET}/{handed.run.name}"]
    assert predict_main(words) == 4
    assert not handed.imported()
    assert predict_main([*words, "--allow-code", "--device", "cpu"]) == 0


def test_labels_of_a_run_are_exported_without_its_code(handed: Handed) -> None:
    labels = write_image(Path("preds/a.nii.gz").absolute())
    image = nibabel.load(labels)
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), labels)
    assert export_main(["labels", str(labels), "-o", "out", "--format", "itksnap", "-m", str(handed.run)]) == 0
    assert not handed.imported()


def test_scoring_a_validation_folder_imports_nothing(handed: Handed) -> None:
    validation = handed.run / "fold_0" / VALIDATION_FOLDER
    for folder in (Path("labels"), validation):
        folder.mkdir()
        mask = np.zeros((4, 4, 4), np.uint8)
        mask[1:3, 1:3, 1:3] = 1
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), folder / "case_b.nii.gz")
    words = ["-g", "labels", "-p", str(validation), "--labels", "liver=1", "spleen=2", "-o", "summary.json"]
    assert evaluate_main(words) == 0
    assert json.loads(Path("summary.json").read_text())["warnings"] == ["PHANTOM"]
    assert not handed.imported()


def test_predicting_from_python_needs_the_argument(handed: Handed) -> None:
    with pytest.raises(DataError) as caught:
        samora_pipeline.predict("scans", "out", model=handed.run, device="cpu")
    assert caught.value.code == "E-CODE-01"
    assert not handed.imported()
    samora_pipeline.predict("scans", "out", model=handed.run, device="cpu", allow_code=True)
    assert handed.imported()
