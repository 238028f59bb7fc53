"""Every command runs as a module too: ``python -m trainers.cli``."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution

import pytest

COMMANDS = {entry.name: entry.module for entry in distribution("samora_pipeline").entry_points}


def test_all_commands_are_known() -> None:
    assert len(COMMANDS) == 15


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_runs_as_a_module(name: str) -> None:
    words = [sys.executable, "-m", COMMANDS[name], "--no-such-option"]
    refused = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr.split()[:2]) == (2, ["usage:", name])
