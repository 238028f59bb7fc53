"""Freed memory stays with the process, seen from the kernel's side in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
import numpy as np
if sys.argv[1] == "keep":
    from samora_pipeline.inference.allocation import keep_freed_memory
    if not keep_freed_memory():
        sys.exit(77)
np.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, mode], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("the malloc of this system has no mallopt")
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_the_same_pages_are_used_again() -> None:
    # numpy asks for huge pages itself, hence 64 faults for 128 MiB instead of 32,768.
    assert _faults("keep") < 20 < _faults("leave")
