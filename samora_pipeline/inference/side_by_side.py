"""Work on the slices of a volume on all cores: each core takes its own, one after another.

Cores that share every product of one slice wait for each other hundreds of times per slice, and its small operations
use one of them only. Cores with slices of their own wait for nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Generator[Result, None, None]:
    """Yield ``function`` of each item in the order of the items, ``workers`` of them computed at a time.

    The threads that torch has now are divided among the workers. Items are drawn as they are needed, and at most one
    result more than there are workers waits to be taken. What ``function`` raises is raised here, at its item's turn.
    """
    threads = torch.get_num_threads()
    if min(workers, threads) <= 1:
        yield from map(function, items)
        return
    own = max(1, threads // workers)
    try:
        with ThreadPoolExecutor(min(workers, threads), "slices", torch.set_num_threads, (own,)) as pool:
            pending: deque[Future[Result]] = deque()
            try:
                for item in items:
                    if len(pending) > workers:
                        yield pending.popleft().result()
                    pending.append(pool.submit(function, item))
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()
    finally:
        # A worker's number is also that of threads that torch meets later; by now no worker sets it any more.
        torch.set_num_threads(threads)
