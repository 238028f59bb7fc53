"""Cases on the workers of a Dask cluster: an existing one, or one whose workers are jobs of Slurm or PBS.

A case that was worked on when its worker died is given to another one; the second worker that it kills ends it. No
more cases are handed in than there are places, so that a dying worker takes no waiting case with it.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from samora_pipeline.errors import AssetError, ResourceError, UsageError
from samora_pipeline.files import write_text

_LOG = logging.getLogger(__name__)
_CONNECT_SECONDS = 20
_POLL_SECONDS = 0.05
_LOOK_SECONDS = 1.0
"""between two looks at which workers are there"""
_PATIENCE_SECONDS = 600
_GPU = "GPU"
"""the resource that workers declare (dask worker --resources GPU=1) so that each holds one model on a GPU of its own"""
_DEATHS = 1
"""of workers that a case survives"""
_QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster"}
_USUAL = {"cores": 1, "memory": "8 GiB", "walltime": "04:00:00"}
"""of a job, where Dask's own configuration (jobqueue.yaml) says nothing"""
_JOBS = 4
SCRIPT_FOLDER = Path("dask_jobs")

Item = TypeVar("Item")
Result = TypeVar("Result")
Judged = TypeVar("Judged")


def on_cluster(
    function: Callable[[Item], Result],
    items: Sequence[tuple[str, Item]],
    address: str,
    judged: Callable[[str, Callable[[], Result]], Judged],
    *,
    gpu: bool = False,
) -> Iterator[tuple[int, Judged]]:
    """Apply ``function`` to each (name, item); yield the index of an item and what became of it, as they end.

    Args:
        function: importable on the workers.
        items: picklable; relative paths in them are those of this process's working directory.
        address: of a scheduler, or ``slurm:PARTITION[:JOBS]``, ``pbs:QUEUE[:JOBS]``.
        judged: turns a name, and what returns the result or raises its error, into what is yielded.
        gpu: whether a case takes a whole GPU of the workers that declare some.

    Raises:
        AssetError: ``E-DASK-01`` without the package. UsageError: ``E-DASK-03`` jobs that cannot be described.
        ResourceError: ``E-DASK-02`` no cluster, or it went away.
    """
    with _connected(address) as client:
        work = partial(_in_folder, os.getcwd(), function)  # noqa: PTH109 - pickled as text
        waiting, running, places = deque(range(len(items))), dict[Any, int](), _Places(client, address, gpu)
        while waiting or running:
            while waiting and len(running) < places.count():
                index = waiting.popleft()
                wanted = {_GPU: 1} if places.on_gpus else None
                running[client.submit(work, items[index][1], pure=False, resources=wanted)] = index
            places.count()
            for future in [future for future in running if future.done()]:
                index = running.pop(future)
                outcome = _judge(future, items[index][0], address, judged)
                if outcome is None:
                    waiting.append(index)
                else:
                    yield index, outcome
            time.sleep(_POLL_SECONDS)


def _in_folder(folder: str, function: Callable[[Item], Result], item: Item) -> Result:
    """Work on an item where the command was typed: workers have working directories of their own."""
    os.chdir(folder)
    return function(item)


def _judge(future: Any, name: str, address: str, judged: Callable[[str, Callable[[], Any]], Judged]) -> Judged | None:
    """What became of a case; None when its result was lost with its worker, so that it is worked on again."""
    from distributed import CancelledError, KilledWorker

    def result() -> Any:
        try:
            return future.result(timeout=_CONNECT_SECONDS)
        except KilledWorker as error:
            raise no_result(name) from error

    try:
        return judged(name, result)
    except TimeoutError:
        return None
    except (CancelledError, ModuleNotFoundError) as error:
        raise _no_cluster(address, str(error)) from error


class _Places:
    """How many cases can be worked on at once. Some clusters start workers on demand: that is awaited."""

    def __init__(self, client: Any, address: str, gpu: bool) -> None:
        self._client, self._address, self._gpu = client, address, gpu
        self._count, self._looked, self._alone_since = 0, -_LOOK_SECONDS, time.monotonic()
        self.on_gpus = False

    def count(self) -> int:
        """The places of the workers that are connected, at least one.

        Raises:
            ResourceError: ``E-DASK-02`` when there is no worker for too long.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return max(1, self._count)
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        except (OSError, TimeoutError) as error:
            raise _no_cluster(self._address, str(error)) from error
        gpus = int(sum(worker["resources"].get(_GPU, 0) for worker in workers)) if self._gpu else 0
        self.on_gpus = gpus > 0
        self._count, self._looked = gpus or sum(worker["nthreads"] for worker in workers), now
        if self._count:
            self._alone_since = now
        elif now - self._alone_since > _PATIENCE_SECONDS:
            raise _no_cluster(self._address, f"no worker for {_PATIENCE_SECONDS:g} s")
        return max(1, self._count)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise AssetError("E-DASK-01", found="no package distributed") from error
    kind, _, rest = address.partition(":")
    with ExitStack() as stack:
        target = stack.enter_context(_jobs(kind, rest)) if kind in _QUEUES else address
        try:
            client = stack.enter_context(Client(target, timeout=_CONNECT_SECONDS))
        except (OSError, ValueError) as error:
            raise _no_cluster(address, str(error)) from error
        before = client.run_on_scheduler(_allow, _DEATHS)
        stack.callback(client.run_on_scheduler, _allow, before)
        yield client


def _allow(deaths: int, dask_scheduler: Any = None) -> int:
    """Set how many dead workers a task survives; return what it was before, which is restored afterwards."""
    before, dask_scheduler.allowed_failures = dask_scheduler.allowed_failures, deaths
    return int(before)


@contextmanager
def _jobs(kind: str, text: str) -> Iterator[Any]:
    """A cluster whose workers are jobs, as Dask's jobqueue.yaml describes them; the script is left to be read."""
    try:
        import dask
        import dask_jobqueue
    except ImportError as error:
        raise AssetError("E-DASK-01", found="no package dask_jobqueue") from error
    queue, _, jobs = text.partition(":")
    if not queue or not (jobs or "1").isdigit() or jobs == "0":
        raise UsageError("E-DASK-03", found=f"{kind}:{text}")
    configured = dask.config.get(f"jobqueue.{kind}", {})
    usual = {name: value for name, value in _USUAL.items() if not configured.get(name)}
    if configured.get("walltime") == "00:30:00":  # as dask-jobqueue ships it
        usual["walltime"] = _USUAL["walltime"]
    folder = SCRIPT_FOLDER.absolute()
    try:
        cluster = getattr(dask_jobqueue, _QUEUES[kind])(queue=queue, log_directory=str(folder), **usual)
    except (ValueError, TypeError, OSError) as error:
        raise UsageError("E-DASK-03", found=str(error)) from error
    with cluster:
        script = folder / f"{kind}_{queue}.sh"
        write_text(script, cluster.job_script())
        _LOG.info("%s jobs as in %s", jobs or _JOBS, script)
        cluster.scale(jobs=int(jobs or _JOBS))
        yield cluster


def no_result(name: str) -> ResourceError:
    """The error of a case whose worker died."""
    return ResourceError("E-MEM-18", name=name, found="no result, most likely for lack of memory")


def _no_cluster(address: str, found: str) -> ResourceError:
    return ResourceError("E-DASK-02", address=address, found=" ".join(found.split()))
