"""Map a function over cases, in this process or in several, so that one case's failure never stops the others.

Workers are spawned, not forked, and ended when the parent ends; a worker that the system kills is reported with the
case it held, and the other cases go on.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

from tqdm import tqdm

from samora_pipeline.errors import ResourceError, SamoraError

_LOG = logging.getLogger(__name__)
# Where the system does not tell how much memory is free.
_ASSUMED_MEMORY = 8 << 30
_LITTLE_WORK = 48 * 10**6
# Lines of progress where there is no terminal for a bar.
_LINES = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of one item: its result, or the error that stopped it."""

    name: str
    result: Result | None = None
    error: SamoraError | None = None


def map_cases(
    function: Callable[[Item], Result], items: Sequence[tuple[str, Item]], workers: int, title: str
) -> list[Outcome[Result]]:
    """Apply ``function`` to each (name, item) and return the outcomes in the order of the items.

    With ``workers`` 1 all runs in this process. Otherwise ``function`` must be importable (defined in a module) and the
    items picklable. Errors of ours become outcomes; anything else is a bug and is raised.

    A worker that dies takes its pool with it: the pool is replaced and the items that were being worked on run again
    one at a time; only the one that loses its worker again gets ``E-MEM-18``.
    """
    outcomes: dict[int, Outcome[Result]] = {}
    terminal = sys.stderr.isatty()
    with tqdm(total=len(items), desc=title, unit="case", disable=not terminal, leave=False) as progress:
        finished = _serial(function, items) if workers <= 1 or len(items) <= 1 else _pooled(function, items, workers)
        for index, outcome in finished:
            outcomes[index] = outcome
            progress.update()
            if not terminal and len(outcomes) * _LINES // len(items) > (len(outcomes) - 1) * _LINES // len(items):
                _LOG.info("%s: %d of %d cases", title, len(outcomes), len(items))
    return [outcomes[index] for index in range(len(items))]


def suggest_workers(sizes: Sequence[int]) -> int:
    """How many workers suit cases of these sizes in bytes on disk: bounded by cores, by memory and by the work.

    A case is taken to need twelve times its compressed size, and a worker 300 MB of its own. Little work is done
    in this process, because starting workers would take longer.
    """
    if sum(sizes) < _LITTLE_WORK:
        return 1
    need = 12 * max(sizes) + 300 * 10**6
    return max(1, min(os.cpu_count() or 1, len(sizes), int(0.8 * _free_memory() / need)))


def _free_memory() -> int:
    if "SC_AVPHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return _ASSUMED_MEMORY
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _serial(
    function: Callable[[Item], Result], items: Sequence[tuple[str, Item]]
) -> Iterator[tuple[int, Outcome[Result]]]:
    for index, (name, item) in enumerate(items):
        try:
            yield index, Outcome(name, function(item))
        except SamoraError as error:
            yield index, Outcome(name, error=error)
        except MemoryError:
            yield index, Outcome(name, error=_no_memory(name))


def _pooled(
    function: Callable[[Item], Result], items: Sequence[tuple[str, Item]], workers: int
) -> Iterator[tuple[int, Outcome[Result]]]:
    waiting = deque(range(len(items)))
    while waiting:
        suspects: list[int] = []
        with _pool(min(workers, len(waiting))) as pool:
            yield from _until_broken(pool, function, items, waiting, workers, suspects)
        for index in suspects:
            yield index, _alone(function, items[index])


def _until_broken(
    pool: ProcessPoolExecutor,
    function: Callable[[Item], Result],
    items: Sequence[tuple[str, Item]],
    waiting: deque[int],
    workers: int,
    suspects: list[int],
) -> Iterator[tuple[int, Outcome[Result]]]:
    """Work through ``waiting``; when a worker dies, put the items that were being worked on into ``suspects``."""
    running: dict[Future[Result], int] = {}
    while waiting or running:
        try:
            # No more than one item per worker is handed in, so that few are in doubt when a worker dies.
            while waiting and len(running) < workers:
                running[pool.submit(function, items[waiting[0]][1])] = waiting[0]
                waiting.popleft()
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = _outcome(future, items[running[future]][0])
                yield running.pop(future), outcome
        except BrokenProcessPool:
            suspects.extend(sorted(running.values()))
            return


def _alone(function: Callable[[Item], Result], item: tuple[str, Item]) -> Outcome[Result]:
    name, value = item
    with _pool(1) as pool:
        try:
            return _outcome(pool.submit(function, value), name)
        except BrokenProcessPool:
            return Outcome(name, error=_no_memory(name))


def _outcome(future: Future[Result], name: str) -> Outcome[Result]:
    try:
        return Outcome(name, future.result())
    except SamoraError as error:
        return Outcome(name, error=error)
    except MemoryError:
        return Outcome(name, error=_no_memory(name))


def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _start_worker() -> None:
    # One thread per worker: the processes themselves fill the cores.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _no_memory(name: str) -> ResourceError:
    return ResourceError(
        "E-MEM-18",
        f'the worker that held the case "{name}" was ended by the system',
        found="no result, most likely for lack of memory",
        expected="enough memory for one case per worker",
        fix="-np 1  works on one case at a time",
    )
