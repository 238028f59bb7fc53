"""How the memory of a process on a CPU is handed out, which decides a third of the time of large networks there."""

import ctypes
import os
import sys

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
