"""Child processes that can be killed or told to stop, forked so that no test pays for importing torch again."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess

_FORK = multiprocessing.get_context("fork")


def forked(work: Callable[[], int | None], environment: dict[str, str] | None = None) -> BaseProcess:
    """Start ``work`` in a child; its result (None counts as 0) or SystemExit becomes the exit code."""
    process = _FORK.Process(target=_run, args=(work, environment or {}))
    process.start()
    return process


def exit_code(process: BaseProcess, seconds: float = 300.0) -> int:
    """Wait for a child; a signal that killed it counts negative."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"the child did not end within {seconds} s")
    return process.exitcode


def on_ranks(count: int, work: Callable[[], int | None]) -> list[int]:
    """Run ``work`` on ``count`` ranks with the environment that torchrun gives; return the exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [forked(work, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]
    return [exit_code(process) for process in ranks]


def _run(work: Callable[[], int | None], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    try:
        code = work() or 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
