"""What the system refuses, a disk, memory, a file, ends a command with a code and no traceback."""

from __future__ import annotations

import errno
import json
import logging
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from samora_pipeline.command_line import CommandParser, run, say
from samora_pipeline.contracts.json_io import read_object
from samora_pipeline.errors import DataError


def ended(error: Exception) -> Callable[[Namespace], int]:
    def command(_arguments: Namespace) -> int:
        raise error

    return command


def parser() -> CommandParser:
    return CommandParser("samora_test", "A command.")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OSError(errno.EIO, os.strerror(errno.EIO), "scan.nii.gz"), 4, "E-FILE-01"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "scan.nii.gz"), 4, "E-FILE-01"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "scan.nii.gz"), 6, "E-DISK-01"),
        (MemoryError(), 6, "E-MEM-03"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 6, "E-MEM-03"),
        (ValueError("a fault of ours"), 1, "E-BUG-01"),
        (OSError("without a number"), 1, "E-BUG-01"),
    ],
)
def test_the_end_of_a_command(error: Exception, status: int, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(parser(), ended(error), []) == status
    said = capsys.readouterr().err
    assert code in said
    assert ("Traceback" in said) is (status == 1)


def test_nothing_that_is_said_reaches_the_terminal_as_a_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    escape = "a\x1b[2J\x1b]0;pwned\x07\udcff"

    def command(_arguments: Namespace) -> int:
        say(f"said {escape}")
        logging.getLogger("samora").warning("logged %s", escape)
        raise ValueError(escape)

    assert run(parser(), command, []) == 1
    with pytest.raises(SystemExit):
        run(parser(), command, [f"--{escape}"])
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "\\x1b[2J" in text
        assert "\x1b" not in text
        assert "\x07" not in text


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '{"\\udfff": 1}', '["\\uD83D"]'])
def test_half_a_character_is_no_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "value.json").write_text(text)
    with pytest.raises(DataError, match="E-JSON-02"):
        read_object(tmp_path / "value.json")


def test_whole_characters_in_halves_are_json(tmp_path: Path) -> None:
    (tmp_path / "value.json").write_text(json.dumps(["\U0001f600"]))
    assert read_object(tmp_path / "value.json") == ["\U0001f600"]


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_no_json(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "value.json")
    with pytest.raises(DataError, match="E-JSON-02"):
        read_object(tmp_path / "value.json")


def test_many_equal_keys_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "value.json").write_text(
        "{" + ", ".join(['"a": 1', *(f'"b{n}": 1' for n in range(50_000)), '"a": 1']) + "}"
    )
    with pytest.raises(DataError, match="'a' stands twice"):
        read_object(tmp_path / "value.json")
