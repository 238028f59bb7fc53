import json
from pathlib import Path

import pytest

from planners.cli import main
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.splits import SPLITS_FILE, Fold, Splits
from tests.raw_data import make_raw_dataset, written

NAME = "Dataset007_Boxes"
TWO = [
    {"train": ["case_00", "case_01", "case_04"], "val": ["case_02", "case_03"]},
    {"train": ["case_02", "case_03"], "val": ["case_00", "case_01"]},
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_raw_dataset(tmp_path / "raw" / NAME, cases=4)


def folds(raw: Path) -> dict[str, Fold]:
    return read_json(Splits, raw.parents[1] / "preprocessed" / NAME / SPLITS_FILE).folds


def test_the_folds_of_nnunet_are_taken_and_a_change_is_seen(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(raw.parents[1])]
    assert main(root) == 0
    assert list(folds(raw)) == ["0", "1", "2", "3", "all"]
    (raw / "splits_final.json").write_text(json.dumps(TWO))
    capsys.readouterr()
    assert main(root) == 0
    out = capsys.readouterr().out
    assert "the folds 0, 1 are those of splits_final.json" in out
    assert "1 cases of splits_final.json are not used: case_04" in out
    assert "0 cases written, 4 already there" in out
    assert folds(raw)["0"] == Fold(("case_00", "case_01"), ("case_02", "case_03"))
    assert folds(raw)["1"] == Fold(("case_02", "case_03"), ("case_00", "case_01"))
    assert main(root) == 0
    assert "up to date" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ([{"train": ["case_00"], "val": ["case_00"]}], "E-SPLIT-08"),
        ([{"train": ["case_00"], "val": []}], "E-SPLIT-08"),
        ([{"train": ["case_00"], "val": ["other"]}], "E-SPLIT-08"),
        ([{"train": ["case_00"]}], "E-JSON-03"),
        ({"train": ["case_00"], "val": ["case_01"]}, "E-JSON-03"),
    ],
)
def test_what_cannot_be_used_is_named(
    raw: Path, content: object, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (raw / "splits_final.json").write_text(json.dumps(content))
    assert main(["--root", str(raw.parents[1]), "-d", "7"]) == 4
    assert capsys.readouterr().err.startswith(code)
    assert not written(raw.parents[1])
