"""What all commands share: nnU-Net's spellings of options, and commands that offer themselves corrected."""

from __future__ import annotations

import argparse

import pytest

from samora_pipeline.command_line import CommandParser, corrected, run
from samora_pipeline.errors import UsageError
from samora_pipeline.inference.cli import build_parser as predict_parser
from samora_pipeline.registry import Registry, shortened, suggestion
from trainers.cli import build_parser as train_parser

MANY = [f"setting{number}" for number in range(117)]


@pytest.mark.parametrize(
    ("parser", "typed", "here"),
    [
        (train_parser(), "--c", "-c"),
        (train_parser(), "-device", "--device"),
        (train_parser(), "--fold", "--fold"),
        (train_parser(), "--folds", "--fold"),
        (train_parser(), "--dry_run", "--dry-run"),
        (train_parser(), "-f", "-f"),
        (train_parser(), "-1", "-1"),
        (train_parser(), "--nothing", "--nothing"),
        (predict_parser(), "--save_probabilities", "--save-probabilities"),
        (predict_parser(), "--images", "-i"),
        (predict_parser(), "--output", "-o"),
        (predict_parser(), "--model", "-m"),
        (predict_parser(), "--dataset", "-d"),
        (predict_parser(), "-device", "--device"),
        (predict_parser(), "--fold", "-f"),
        (predict_parser(), "--c", "--c"),
        (predict_parser(), "--continue_prediction", "--continue-prediction"),
        (predict_parser(), "a/b--c", "a/b--c"),
    ],
)
def test_spellings_of_nnunet(parser: CommandParser, typed: str, here: str) -> None:
    assert parser.usual(typed) == here


def test_a_trained_run_is_validated_as_in_nnunet() -> None:
    assert train_parser().parse_args(["1", "SAMoraTrainer", "10pct", "--val"]).stage == "validate"


def test_an_unknown_option_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_parser().parse_args(["1", "SAMoraTrainer", "10pct", "--levls", "image"])
    assert capsys.readouterr().err.endswith("unrecognized arguments: --levls image (did you mean --levels?)\n")


def test_of_many_names_the_nearest_three_are_shown() -> None:
    near = suggestion("seting11", MANY)
    assert near["expected"] == "did you mean setting11, setting101 or setting110? ... and 114 more"
    assert near["typo"] == ("seting11", "setting11")
    assert suggestion("b", ["ab", "cd"]) == {"expected": "did you mean ab? known: ab, cd", "typo": ("b", "ab")}
    assert suggestion("x", []) == {"expected": "known: none", "typo": None}


def test_at_most_ten_names_are_listed() -> None:
    assert shortened(MANY[:10]) == ", ".join(MANY[:10])
    assert shortened(MANY) == f"{', '.join(MANY[:10])} and 107 more"


@pytest.mark.parametrize(
    ("words", "typo", "fix"),
    [
        (["1", "X", "--set", "a.ab=3"], ("a.ab", "a.abc"), "samora_x 1 X --set a.abc=3"),
        (["1", "X", "--set", "fusion.ordr=3"], ("model.fusion.ordr", "model.fusion.order"), "order=3"),
        (["1", "X", "--set", "fusion=lacc"], ("lacc", "lac"), "samora_x 1 X --set fusion=lac"),
        (["1", "X", "--levels", "imag,patch"], ("imag", "image"), "samora_x 1 X --levels image,patch"),
        (["my scans", "X"], ("X", "Y"), "samora_x 'my scans' Y"),
        (["1", "1"], ("1", "2"), ""),
        (["1", "2"], ("3", "4"), ""),
        (["1", "2"], None, ""),
    ],
)
def test_the_fix_is_the_command_as_typed(words: list[str], typo: tuple[str, str] | None, fix: str) -> None:
    error = UsageError("E-SET-01", typo=typo)
    offered = corrected("samora_x", words, error)
    assert offered.endswith(fix)
    assert bool(offered) == bool(fix)


def test_a_command_prints_its_correction(capsys: pytest.CaptureFixture[str]) -> None:
    colours: Registry[int] = Registry("colour")
    colours.register("green")(1)
    parser = CommandParser("samora_paint", "")
    parser.add_argument("colour")

    def paint(arguments: argparse.Namespace) -> None:
        colours.get(arguments.colour)

    assert run(parser, paint, ["gren", "--debug"]) == 2
    assert capsys.readouterr().err.endswith("\n  fix: samora_paint green --debug\n")


def test_places_are_imported_when_they_are_asked_for() -> None:
    parts: Registry[object] = Registry("part")
    parts.register_place("good", "samora_pipeline.registry:Registry")
    parts.register_place("bad", "samora_pipeline.nowhere:Nothing")
    assert parts.names() == ["good", "bad"]
    assert parts.get("good") is Registry
    for name in ("good", "bad", "package.module:Name"):
        parts.check(name)
    with pytest.raises(ModuleNotFoundError):
        parts.get("bad")
    with pytest.raises(ValueError, match="twice"):
        parts.register("good")(1)
    with pytest.raises(UsageError, match="E-NAME-01"):
        parts.check("goood")
