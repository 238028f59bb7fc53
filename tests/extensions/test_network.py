"""A trainer whose network is any module, from outside the repository: it trains, predicts, reports, moves, predicts."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import blosc2
import numpy as np
import pytest

from samora_pipeline.contracts.json_io import read_object
from samora_pipeline.handover.cli import main as export_main
from samora_pipeline.handover.import_cli import main as import_main
from samora_pipeline.inference.cli import main as predict_main
from samora_pipeline.reporting.report_cli import main as report_main
from tests.trainers.small_data import NAME, TRAIN, make_dataset
from trainers.cli import main as train_main

RUN = "TwoLayersTrainer__2cases__mine"
CODE = '''
from dataclasses import replace

from torch import nn

from trainers.methods import SAMoraTrainer, Trainer
from trainers.recipes import NO_PRETRAINING


class TwoLayers(nn.Module):
    def __init__(self, in_channels, num_outputs, width=4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, num_outputs, 1),
        )

    def forward(self, images):
        return self.layers(images)


class TwoLayersTrainer(Trainer):
    """Two convolutions."""

    network = "my_network:TwoLayers"
    network_options = {"width": 4}
    levels = ()
    recipes = (NO_PRETRAINING,)
    finetune = replace(SAMoraTrainer.finetune, learns=("network",), epochs=2, batch=4, steps_per_epoch=2)
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my_network.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_network", None)


def test_a_module_is_trained_and_handed_over(outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_dataset(outside / "root")
    words = ["90", "my_network:TwoLayersTrainer", "2cases", "--root", str(root), "--device", "cpu", "--name", "mine"]
    assert train_main([*words, "--set", "model.width=6"]) == 0
    folder = root / "results" / NAME / RUN / "fold_0"
    config = read_object(folder / "config.json")
    assert config["base"] is None
    assert config["model"] == {
        **{"kind": "module", "network": "my_network:TwoLayers", "options": {"width": 6}},
        **{"input_size": 64, "num_outputs": 3, "in_channels": 1, "neighbours": 0, "volume": None},
    }
    assert [stage["name"] for stage in config["stages"]] == ["finetune"]
    assert (folder / "summary.json").is_file()
    assert (folder / "report.html").is_file()

    assert report_main([str(folder), "--root", str(root)]) == 4
    assert "E-CODE-01" in capsys.readouterr().err
    assert report_main([str(folder), "--root", str(root), "--allow-code", "-o", "again.html"]) == 0

    assert export_main([str(folder.parent), "--root", str(root), "-o", "model.zip"]) == 0
    with zipfile.ZipFile("model.zip") as archive:
        weights = [name for name in archive.namelist() if name.endswith("safetensors")]
    assert weights == ["fold_0/checkpoint_final.safetensors"]
    assert import_main(["model.zip", "--root", "elsewhere"]) == 4
    assert import_main(["model.zip", "--root", "elsewhere", "--allow-code"]) == 0

    scans = root / "raw" / NAME / "imagesTr"
    for place, out in ((str(root), "here"), ("elsewhere", "there")):
        predict = ["--root", place, "-i", str(scans), "-o", out, "-m", f"{NAME}/{RUN}", "--device", "cpu"]
        assert predict_main(predict) == 4
        assert predict_main([*predict, "--save-probabilities", "--allow-code"]) == 0
    for case in TRAIN:
        mine, theirs = (blosc2.open(f"{out}/{case}_probabilities.b2nd")[:] for out in ("here", "there"))
        assert len(np.unique(mine)) > 100
        assert np.array_equal(mine, theirs)
