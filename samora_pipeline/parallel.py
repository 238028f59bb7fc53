"""Map a function over cases, in this process, in several or on a cluster: one case's failure never stops the others.

Workers of our own are spawned, not forked, and ended when the parent ends; a worker that the system kills is
reported with the case it held, and the other cases go on.
"""

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
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from tqdm import tqdm

from samora_pipeline import resources
from samora_pipeline.clusters import no_result, on_cluster
from samora_pipeline.errors import SamoraError, UsageError

_LOG = logging.getLogger(__name__)
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


@dataclass(frozen=True)
class Engine:
    """What works on cases: processes of this machine (``workers``; None: as many as suit the cases), or a Dask cluster
    (``dask``: what ``--dask`` takes) whose workers see the same files under the same paths.
    """

    workers: int | None = 1
    dask: str | None = None

    @classmethod
    def of(cls, workers: int | None, dask: str | None, usual: int | None = 1) -> "Engine":
        """The engine that ``-np`` and ``--dask`` stand for; ``usual`` workers where neither is given.

        Raises:
            UsageError: ``E-ARG-01`` no usable number of workers, ``E-ARG-09`` both are given.
        """
        if workers is not None and workers < 1:
            raise UsageError("E-ARG-01", found=str(workers))
        if dask and workers is not None:
            raise UsageError("E-ARG-09", found="both", fix="leave one of them out")
        return cls(usual if workers is None else workers, dask or None)

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[tuple[str, Item]],
        title: str,
        sizes: Sequence[int] = (),
    ) -> list[Outcome[Result]]:
        """As ``each``; the outcomes in the order of the items."""
        outcomes = dict(self.each(function, items, title, sizes))
        return [outcomes[index] for index in range(len(items))]

    def each(
        self,
        function: Callable[[Item], Result],
        items: Sequence[tuple[str, Item]],
        title: str,
        sizes: Sequence[int] = (),
        *,
        gpu: bool = False,
    ) -> Iterator[tuple[int, Outcome[Result]]]:
        """Apply ``function`` to each (name, item); yield the index of an item with its outcome as soon as it ends.

        With one worker all runs in this process. Otherwise ``function`` must be importable (defined in a module) and
        the items picklable. Errors of ours become outcomes; anything else is a bug and is raised.

        A worker that dies is replaced. What was worked on meanwhile is worked on again, in processes of this machine
        one item at a time; an item that loses its worker again gets ``E-MEM-18``.

        Args:
            sizes: bytes on disk, for the number of workers.
            gpu: whether a case takes a whole GPU of the cluster's workers that have some.

        Raises:
            AssetError: ``E-DASK-01`` without the package. UsageError: ``E-DASK-03`` jobs that cannot be described.
            ResourceError: ``E-DASK-02`` no cluster, or it went away.
        """
        if self.dask is not None:
            finished = on_cluster(function, items, self.dask, _outcome, gpu=gpu)
        else:
            workers = suggest_workers(sizes) if self.workers is None else self.workers
            alone = workers <= 1 or len(items) <= 1
            finished = _serial(function, items) if alone else _pooled(function, items, workers)
        return _shown(finished, len(items), title)


SERIAL = Engine()
"""this process"""


def map_cases(
    function: Callable[[Item], Result], items: Sequence[tuple[str, Item]], workers: int, title: str
) -> list[Outcome[Result]]:
    """``Engine.map`` on processes of this machine."""
    return Engine(workers).map(function, items, title)


def _shown(
    finished: Iterator[tuple[int, Outcome[Result]]], count: int, title: str
) -> Iterator[tuple[int, Outcome[Result]]]:
    """What is finished, with progress on the console."""
    done, terminal = 0, sys.stderr.isatty()
    with tqdm(total=count, desc=title, unit="case", disable=not terminal, leave=False) as progress:
        for index, outcome in finished:
            yield index, outcome
            done += 1
            progress.update()
            if not terminal and done * _LINES // count > (done - 1) * _LINES // count:
                _LOG.info("%s: %d of %d cases", title, done, count)


def suggest_workers(sizes: Sequence[int]) -> int:
    """How many workers suit cases of these sizes in bytes on disk: bounded by the cores and the memory that this
    process may use (``resources``) and by the work.

    A case is taken to need twelve times its compressed size, and a worker 300 MB of its own. Little work is done
    in this process, because starting workers would take longer.
    """
    if sum(sizes) < _LITTLE_WORK:
        return 1
    need = 12 * max(sizes) + 300 * 10**6
    return max(1, min(resources.cores().value, len(sizes), int(0.8 * resources.memory().value / need)))


def _serial(
    function: Callable[[Item], Result], items: Sequence[tuple[str, Item]]
) -> Iterator[tuple[int, Outcome[Result]]]:
    for index, (name, item) in enumerate(items):
        yield index, _outcome(name, partial(function, item))


def _pooled(
    function: Callable[[Item], Result], items: Sequence[tuple[str, Item]], workers: int
) -> Iterator[tuple[int, Outcome[Result]]]:
    waiting = deque(range(len(items)))
    while waiting:
        running: dict[Future[Result], int] = {}
        with _pool(min(workers, len(waiting))) as pool, suppress(BrokenProcessPool):
            while waiting or running:
                # No more than one item per worker is handed in, so that few are in doubt when a worker dies.
                while waiting and len(running) < workers:
                    running[pool.submit(function, items[waiting[0]][1])] = waiting[0]
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    outcome = _outcome(items[running[future]][0], future.result)
                    yield running.pop(future), outcome
        # What is left was being worked on when a worker died.
        for index in sorted(running.values()):
            name, item = items[index]
            with _pool(1) as pool:
                try:
                    yield index, _outcome(name, pool.submit(function, item).result)
                except BrokenProcessPool:
                    yield index, Outcome(name, error=no_result(name))


def _outcome(name: str, result: Callable[[], Result]) -> Outcome[Result]:
    try:
        return Outcome(name, result())
    except SamoraError as error:
        return Outcome(name, error=error)
    except MemoryError:
        return Outcome(name, error=no_result(name))


def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(tuple(resources.set_by_us),)
    )


def _start_worker(set_by_us: tuple[str, ...]) -> None:
    # One thread per worker, unless a user said otherwise: the processes themselves fill the cores.
    for variable in resources.THREADS:
        if variable in set_by_us or variable not in os.environ:
            os.environ[variable] = "1"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
