"""SIGKILL at random moments of preprocessing; then the same command must give the tree of an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from planners.cli import main
from tests.raw_data import make_raw_dataset, tree

NAME = "Dataset007_Boxes"

# Imports once, then forks a run for each line it reads: what is killed is the work, not the start of Python.
SERVER = """
import os, sys
import planners.preparation, planners.cli
arguments = sys.argv[1:]
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(planners.cli.main(arguments))
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_raw_dataset(tmp_path / "raw" / NAME, cases=4, test=1, unlabelled=1, channels=("CT", "MR"), shape=(60, 50, 12))
    return tmp_path


@pytest.mark.parametrize("times", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(root: Path, times: int) -> None:
    command = ["--root", str(root), "-d", "7", "-np", "1"]
    target = root / "preprocessed" / NAME
    assert main(command) == 0
    expected = tree(target)
    moments = random.Random(20)
    killed = 0
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        seconds = [_run(server, target, None)[0] for _ in range(2)][-1]
        for _ in range(times):
            _, status = _run(server, target, moments.uniform(0.0, seconds))
            killed += status == signal.SIGKILL
            assert main(command) == 0
            assert tree(target) == expected
        assert server.stdin is not None
        server.stdin.close()
    assert killed >= times // 3


def _run(server: "subprocess.Popen[str]", target: Path, kill_after: float | None) -> tuple[float, int]:
    assert server.stdin is not None
    assert server.stdout is not None
    shutil.rmtree(target)
    server.stdin.write("go\n")
    server.stdin.flush()
    child = int(server.stdout.readline())
    start = time.perf_counter()
    if kill_after is not None:
        time.sleep(kill_after)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    status = int(server.stdout.readline())
    return time.perf_counter() - start, status


@pytest.mark.slow
def test_killed_at_twenty_random_moments_with_workers(root: Path) -> None:
    """The parent of two workers is killed; they end, and what they had finished is used."""
    command = ["--root", str(root), "-d", "7", "-np", "2"]
    target = root / "preprocessed" / NAME
    assert main(command) == 0
    expected = tree(target)
    program = "from planners.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    moments = random.Random(21)
    seconds = 0.0
    for moment in range(21):
        shutil.rmtree(target)
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", program, *command], stderr=subprocess.DEVNULL)
        if moment:
            time.sleep(moments.uniform(0.0, seconds))
            process.kill()
        process.wait()
        seconds = seconds or time.perf_counter() - start
        deadline = time.monotonic() + 20
        # The workers may still end.
        while main([*command[:-1], "1"]) != 0 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert tree(target) == expected
