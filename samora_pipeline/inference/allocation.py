"""What a process on a CPU decides before numpy and torch are imported: how memory is handed out, which makes a third of
the time of large networks there, and how many threads a product has.
"""

from __future__ import annotations

import ctypes
import os
import sys

BLAS_THREADS = "OPENBLAS_NUM_THREADS"
"""how many threads numpy's OpenBLAS is to have; it looks at it when it is loaded"""

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_PAD = 64 << 20
_NEVER = 2**31 - 1
# Heaps of single threads are given back whatever the other numbers say, so all threads share the one of the process.
_SETTINGS = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _PAD), (_ARENA_MAX, 1))


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, and take it in huge pages; return whether the system's malloc can.

    The activations of a block are tens of megabytes. glibc fetches such pieces from the kernel one by one and gives
    them back at once, and the kernel clears each of their pages again in the next block. To be called before torch
    is imported, which reads the variable for huge pages once. The process then holds on to its peak until it ends.
    """
    if sys.platform != "linux":
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(name, value) == 1 for name, value in _SETTINGS)


def use_one_blas_thread() -> None:
    """Let each product of numpy stay on the core that asks for it, unless the user has said otherwise.

    OpenBLAS has one team of threads: workers that ask for it at the same time wait for each other.
    """
    os.environ.setdefault(BLAS_THREADS, "1")
