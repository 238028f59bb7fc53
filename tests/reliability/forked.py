"""Commands in forked children of one warm process, so that a trial takes a tenth of a second to a few.

``before`` runs in the child just before its command: there calls are made to fail, and nowhere else.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NOBODY = 65534 if os.getuid() == 0 else None
"""permissions mean nothing to root: its commands run as this user where a fault is one of permission"""
_MEMORY = 16 << 30
_NO_EXIT = 97
_OTHER_SYSTEMS = ("encodings.mbcs", "encodings.oem", "encodings.cp65001")


@cache
def commands() -> dict[str, importlib.metadata.EntryPoint]:
    """The console scripts by name; everything is imported, so that children begin at once and need read no library."""
    import matplotlib
    import torch

    matplotlib.use("Agg")
    torch.set_num_threads(1)
    scripts = importlib.metadata.entry_points(group="console_scripts")
    found = {script.name: script for script in scripts if script.name.startswith("samora_")}
    others = ("encodings", "nibabel", "SimpleITK", "blosc2", "scipy.ndimage", "safetensors.torch")
    own = {script.module.partition(".")[0] for script in found.values()} | {"samora_pipeline"}
    for name in (*others, *sorted(own)):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}.") if name in {*own, "encodings"} else ():
            if module.name not in _OTHER_SYSTEMS:
                try:
                    importlib.import_module(module.name)
                except ImportError:  # an extra that is not installed
                    continue
    return found


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status (None: out of time; negative: a signal), what it said, its largest kB."""

    status: int | None
    text: str
    seconds: float
    memory: int

    @property
    def crashed(self) -> bool:
        """Whether a user would report a fault of the program: a traceback, exit 1, a signal."""
        return "Traceback" in self.text or self.status in (1, _NO_EXIT) or (self.status or 0) < 0

    @property
    def code(self) -> str:
        """The first error code, or nothing."""
        found = re.search(r"\bE-[A-Z0-9]+-\d\d\b", self.text)
        return found[0] if found else ""

    @property
    def controls(self) -> set[str]:
        """The characters in it that a terminal obeys."""
        return {c for c in self.text if (ord(c) < 32 and c not in "\n\t") or ord(c) in (0x7F, 0x9B, 0x202E)}


def start(
    words: Sequence[str],
    trial: Path,
    log: Path,
    *,
    delay: float = 0.0,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], str] = str,
    user: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Fork a child that runs a command in ``trial``, with its ``root`` as SAMORA_ROOT; return its process number.

    What ``after`` returns in the child is added to the log.
    """
    main = commands()[words[0]].load()
    child = os.fork()
    if child:
        return child
    code: object = _NO_EXIT
    try:
        os.setsid()
        time.sleep(delay)
        _redirect(log)
        os.environ.update({"SAMORA_ROOT": str(trial / "root"), **(environment or {})})
        os.chdir(trial)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        if user is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        sys.argv = list(words)
        before()
        code = main(list(words[1:]))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(2, after().encode())
        os._exit(code if isinstance(code, int) else 0)


def _redirect(log: Path) -> None:
    """Give the child streams of its own; those of the parent may belong to a test that captures them."""
    import logging

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    logging.root.handlers.clear()


def wait(child: int, seconds: float) -> tuple[int | None, int]:
    """Wait for a child, and end its group when the time is spent; its status and its largest size in kB."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    _, _, usage = os.wait4(child, 0)
    return None, usage.ru_maxrss


def run(
    words: Sequence[str],
    trial: Path,
    log: Path,
    *,
    seconds: float = 60,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], str] = str,
    user: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run one command to its end; see ``start``."""
    begun = time.monotonic()
    child = start(words, trial, log, before=before, after=after, user=user, environment=environment)
    status, memory = wait(child, seconds)
    text = log.read_text(errors="replace") if log.exists() else ""
    return Outcome(status, text, time.monotonic() - begun, memory)
