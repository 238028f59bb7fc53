"""What Python has of the commands: quick to import, with their arguments, and errors that are raised."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import samora_pipeline
from dataset_conversion import convert
from planners import plan
from samora_pipeline.calls import words_of
from samora_pipeline.errors import FailedCasesError, UsageError
from samora_pipeline.evaluation.cli import build_parser as evaluate_parser
from samora_pipeline.inference.cli import build_parser as predict_parser
from samora_pipeline.inference.predictor import Predictor
from tests.fake_run import write_fake_run, write_image
from tests.raw_data import make_raw_dataset
from trainers import train
from trainers.cli import build_parser as train_parser


def test_importing_takes_nothing_with_it() -> None:
    program = (
        "import sys, samora_pipeline, trainers, planners, dataset_conversion\n"
        "samora_pipeline.__version__\n"
        "print([m for m in ('torch', 'numpy', 'pandas', 'nibabel', 'argparse') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_library_has_these_names_and_no_others() -> None:
    assert samora_pipeline.__version__ == version("samora_pipeline")
    assert samora_pipeline.Predictor is Predictor
    assert dir(samora_pipeline) == ["Predictor", "__version__", "evaluate", "predict"]
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        samora_pipeline.train  # noqa: B018


def test_arguments_are_those_of_the_command() -> None:
    given = {
        **{"dataset": 7, "trainer": "SAMoraTrainer", "split": "full", "fold": 0, "minutes": 0.5, "dry_run": True},
        **{"set": {"finetune.epochs": 2, "finetune.augmentation.flip": True, "finetune.betas": (0.9, 0.99)}},
        **{"levels": ["image", "patch"], "resume": False, "seed": -1, "device": None, "consistency": False},
    }
    parser = train_parser()
    words = words_of(parser, given)
    assert words[:3] == ["7", "SAMoraTrainer", "full"]
    read = parser.parsed(words)
    assert (read.folds, read.minutes, read.dry_run, read.resume) == (["0"], 0.5, True, False)
    assert read.assignments == ["finetune.epochs=2", "finetune.augmentation.flip=true", "finetune.betas=0.9,0.99"]
    assert (read.levels, read.seed, read.device, read.consistency) == (("image", "patch"), -1, None, False)
    assert words_of(predict_parser(), {"images": Path("in"), "folds": [0, 1], "tta": True}) == [
        *("-i", "in", "-f", "0", "1", "--tta")
    ]
    labels = words_of(evaluate_parser(), {"labels": {"liver": 1}, "subset": ["a", "b"]})
    assert labels == ["--labels", "liver=1", "--subset=a,b"]


def test_wrong_arguments_are_type_errors() -> None:
    with pytest.raises(TypeError, match=r"no argument 'devise'; did you mean device\?"):
        samora_pipeline.predict("in", "out", devise="cpu")
    with pytest.raises(TypeError, match="invalid float value"):
        train("1", "SAMoraTrainer", "full", minutes="soon")
    with pytest.raises(UsageError, match="E-ARG-05"):
        samora_pipeline.evaluate()
    with pytest.raises(UsageError, match="E-ARG-03"):
        train("1", "2d", "0")


def test_prediction_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_fake_run(tmp_path / "results")
    write_image(tmp_path / "scans" / "a.nii.gz")
    out = samora_pipeline.predict(tmp_path / "scans", tmp_path / "out", model=run, device="cpu", root=tmp_path)
    assert [path.name for path in out.glob("*.nii.gz")] == ["a.nii.gz"]
    summary = samora_pipeline.evaluate(out, out, labels={"liver": 1, "spleen": 2})
    assert summary.n == 1
    assert not (out / "summary.json").exists()
    samora_pipeline.evaluate(out, out, labels={"liver": 1, "spleen": 2}, output=tmp_path / "scores.json")
    assert (tmp_path / "scores.json").is_file()
    (tmp_path / "scans" / "b.nii.gz").write_bytes(b"nothing")
    with pytest.raises(FailedCasesError, match="E-CASE-05"):
        samora_pipeline.predict(tmp_path / "scans", tmp_path / "out", model="default", root=tmp_path)


def test_planning_and_conversion_return_their_folders(tmp_path: Path) -> None:
    make_raw_dataset(tmp_path / "raw" / "Dataset007_Boxes", cases=2)
    assert plan(7, root=tmp_path, workers=1) == [tmp_path / "preprocessed" / "Dataset007_Boxes"]
    assert plan(root=tmp_path) == [tmp_path / "preprocessed" / "Dataset007_Boxes"]
    raw = convert(dataset="Phantom", scans=[1, 0, 1], root=tmp_path)
    assert (raw.parent, (raw / "dataset.json").is_file()) == (tmp_path / "raw", True)
    with pytest.raises(UsageError, match="E-NAME-01"):
        convert(dataset="Phantm", root=tmp_path)
