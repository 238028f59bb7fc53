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
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from samora_pipeline import resources
from samora_pipeline.errors import AssetError, ResourceError, SamoraError

_LOG = logging.getLogger(__name__)
_LITTLE_WORK = 48 * 10**6
_CONNECT_SECONDS = 20
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 600
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
    """What works on cases: processes of this machine (``workers``; None: as many as suit the cases), or an existing
    Dask cluster whose scheduler listens at ``dask`` and whose workers see the same files under the same paths.
    """

    workers: int | None = 1
    dask: str | None = None

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[tuple[str, Item]],
        title: str,
        sizes: Sequence[int] = (),
    ) -> list[Outcome[Result]]:
        """Apply ``function`` to each (name, item); ``sizes`` are bytes on disk, for the number of workers.

        Raises:
            AssetError: ``E-DASK-01`` without the package; ResourceError: ``E-DASK-02`` no cluster, or it went away.
        """
        if self.dask is not None:
            return _in_order(_on_cluster(function, items, self.dask), len(items), title)
        workers = suggest_workers(sizes) if self.workers is None else self.workers
        return map_cases(function, items, workers, title)


def map_cases(
    function: Callable[[Item], Result], items: Sequence[tuple[str, Item]], workers: int, title: str
) -> list[Outcome[Result]]:
    """Apply ``function`` to each (name, item) and return the outcomes in the order of the items.

    With ``workers`` 1 all runs in this process. Otherwise ``function`` must be importable (defined in a module) and the
    items picklable. Errors of ours become outcomes; anything else is a bug and is raised.

    A worker that dies takes its pool with it: the pool is replaced and the items that were being worked on run again
    one at a time; only the one that loses its worker again gets ``E-MEM-18``.
    """
    alone = workers <= 1 or len(items) <= 1
    return _in_order(_serial(function, items) if alone else _pooled(function, items, workers), len(items), title)


def _in_order(finished: Iterator[tuple[int, Outcome[Result]]], count: int, title: str) -> list[Outcome[Result]]:
    outcomes: dict[int, Outcome[Result]] = {}
    terminal = sys.stderr.isatty()
    with tqdm(total=count, desc=title, unit="case", disable=not terminal, leave=False) as progress:
        for index, outcome in finished:
            outcomes[index] = outcome
            progress.update()
            if not terminal and len(outcomes) * _LINES // count > (len(outcomes) - 1) * _LINES // count:
                _LOG.info("%s: %d of %d cases", title, len(outcomes), count)
    return [outcomes[index] for index in range(count)]


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
                    yield index, Outcome(name, error=_no_memory(name))


def _outcome(name: str, result: Callable[[], Result]) -> Outcome[Result]:
    try:
        return Outcome(name, result())
    except SamoraError as error:
        return Outcome(name, error=error)
    except MemoryError:
        return Outcome(name, error=_no_memory(name))


def _on_cluster(
    function: Callable[[Item], Result], items: Sequence[tuple[str, Item]], address: str
) -> Iterator[tuple[int, Outcome[Result]]]:
    """As ``_pooled``, on the workers of a Dask cluster; a case that keeps killing its worker gets ``E-MEM-18``."""
    try:
        from distributed import Client
    except ImportError as error:
        raise AssetError("E-DASK-01", found="no package distributed") from error
    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise _no_cluster(address, str(error)) from error
    with client:
        waiting = {
            client.submit(function, value, pure=False): (index, name) for index, (name, value) in enumerate(items)
        }
        alone_since: float | None = None
        while waiting:
            for future in [future for future in waiting if future.done()]:
                index, name = waiting[future]
                outcome = _cluster_outcome(future, name, address)
                if outcome is not None:
                    del waiting[future]
                    yield index, outcome
            alone_since = _without_workers(client, alone_since, address)
            time.sleep(_POLL_SECONDS)


def _cluster_outcome(future: Any, name: str, address: str) -> Outcome[Any] | None:
    """What became of a case; None when its result was lost with its worker, so that it is worked on again."""
    from distributed import CancelledError, KilledWorker

    try:
        return _outcome(name, partial(future.result, timeout=_CONNECT_SECONDS))
    except KilledWorker:
        return Outcome(name, error=_no_memory(name))
    except TimeoutError:
        return None
    except (CancelledError, ModuleNotFoundError) as error:
        raise _no_cluster(address, str(error)) from error


def _without_workers(client: Any, since: float | None, address: str) -> float | None:
    """Since when no worker is connected (None: there is one). Some clusters start workers on demand: that is awaited.

    Raises:
        ResourceError: ``E-DASK-02`` when there is none for too long.
    """
    try:
        present = bool(client.nthreads())
    except (OSError, TimeoutError) as error:
        raise _no_cluster(address, str(error)) from error
    if present:
        return None
    if since is None:
        _LOG.info("the Dask cluster at %s has no worker; waiting for one", address)
        return time.monotonic()
    if time.monotonic() - since > _PATIENCE_SECONDS:
        raise _no_cluster(address, f"no worker for {_PATIENCE_SECONDS:g} s")
    return since


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


def _no_memory(name: str) -> ResourceError:
    return ResourceError("E-MEM-18", name=name, found="no result, most likely for lack of memory")


def _no_cluster(address: str, found: str) -> ResourceError:
    return ResourceError("E-DASK-02", address=address, found=" ".join(found.split()))
