"""A dataset from outside the repository: one file with a converter and its sample, named by its path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataset_conversion.catalogue import find_converter
from dataset_conversion.cli import main
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.errors import UsageError
from tests.dataset_conversion.samples import make_sample
from tests.extensions import converter_contract as contract

MODULE = """
from functools import partial

import numpy as np

from dataset_conversion.converter import Converter
from dataset_conversion.survey import list_files, stem
from dataset_conversion.scans import LabelMap
from dataset_conversion.scans import load_files
from dataset_conversion.survey import CaseSource
from samora_pipeline.contracts.dataset import SamoraJson
from samora_pipeline.imaging.files import write_volume
from samora_pipeline.imaging.volume import make_grid

ENDINGS = (".nrrd",)


class Hearts(Converter):
    name = "Hearts"
    summary = "Cine MR of the heart."
    page = "https://example.org/hearts"
    terms = "CC0"
    citation = "Nobody, 2026"
    tree = "FOLDER/CASE.nrrd and CASE_gt.nrrd"
    home = 27
    channels = ("MRI",)
    label_maps = {"_gt": LabelMap({"ventricle": (3,), "muscle": (1, 2)})}

    def survey(self, source, options):
        labels = {stem(path, ENDINGS): path for path in list_files(source, ("_gt.nrrd",))}
        images = [path for path in list_files(source, ENDINGS) if stem(path, ENDINGS) not in labels]
        if not images:
            raise self.missing_source(source, "no file CASE.nrrd")
        label_map = self.label_maps["_gt"]
        return self.describe(
            [
                CaseSource(path.stem, "Tr", partial(load_files, [path], labels[f"{path.stem}_gt"], label_map))
                for path in images
            ],
            SamoraJson(origin="hearts of nobody"),
        )

    def sample(self, folder):
        grid = make_grid((9, 8, 5), np.diag([-1.5, -1.5, 8.0, 1.0]))
        for case in range(3):
            drawn = np.random.default_rng(case).integers(0, 4, grid.shape)
            write_volume(folder / f"p{case}.nrrd", (40 * drawn).astype(np.int16), grid)
            write_volume(folder / f"p{case}_gt.nrrd", drawn.astype(np.uint8), grid)
"""
TOKEN = "my_datasets.hearts:Hearts"


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib" / "my_datasets").mkdir(parents=True)
    (tmp_path / "lib" / "my_datasets" / "hearts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "lib")


def test_it_keeps_to_the_contract(tmp_path: Path) -> None:
    converter = find_converter(TOKEN)
    source, options = make_sample(converter, tmp_path / "source")
    (tmp_path / "empty").mkdir()
    contract.check_introduction(converter)
    contract.check_labels_and_lists(converter)
    contract.check_cases_can_be_sent_to_other_processes(converter, source, options)
    contract.check_equal_surveys(converter, source, options)
    contract.check_empty_folder_is_refused(converter, tmp_path / "empty", options, tmp_path / "none" / "Dataset027_A")
    contract.check_raw_dataset(converter, source, options, tmp_path / "raw" / "Dataset027_Hearts")


def test_the_command_uses_it_and_writes_what_the_class_states(tmp_path: Path) -> None:
    make_sample(find_converter(TOKEN), tmp_path / "downloads" / "Hearts")
    assert main(["-d", TOKEN, "--root", str(tmp_path)]) == 0
    raw = read_dataset(tmp_path / "raw" / "Dataset027_Hearts")
    assert list(raw.training()) == ["p0", "p1", "p2"]
    assert (raw.ours.origin, raw.ours.citation, raw.ours.terms) == ("hearts of nobody", "Nobody, 2026", "CC0")
    description = json.loads((raw.folder / "dataset.json").read_text())
    assert description == {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "ventricle": 1, "muscle": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
        "name": "Hearts",
    }


@pytest.mark.parametrize("token", ["my_datasets.hearts:Lungs", "my_datasets.lungs:Lungs"])
def test_a_path_that_leads_nowhere_is_refused(token: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_converter(token)
    assert caught.value.code == "E-NAME-01"
