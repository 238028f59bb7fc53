import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from samora_pipeline.errors import DataError, SamoraError
from samora_pipeline.parallel import Engine, map_cases, suggest_workers
from samora_pipeline.resources import cores


def square(value: int) -> int:
    if value < 0:
        raise DataError("E-IMG-02", f"{value} is damaged")
    if value == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    return value * value


def divide(value: int) -> float:
    return 1 / value


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_one_error_does_not_stop_the_others(workers: int) -> None:
    items = [(f"case{value}", value) for value in (3, -1, 4, 5, -2, 6)]
    outcomes = map_cases(square, items, workers, "squaring")
    assert [outcome.result for outcome in outcomes] == [9, None, 16, 25, None, 36]
    assert [outcome.name for outcome in outcomes] == [name for name, _ in items]
    assert [outcome.error.code for outcome in outcomes if outcome.error] == ["E-IMG-02"] * 2
    assert outcomes[4].error is not None
    assert outcomes[4].error.what == "-2 is damaged"


def test_a_dead_worker_is_reported_with_its_case_and_the_others_finish() -> None:
    items = [(f"case{value}", value) for value in (1, 99, 2, 3, 4)]
    outcomes = map_cases(square, items, 2, "squaring")
    assert [outcome.result for outcome in outcomes] == [1, None, 4, 9, 16]
    assert outcomes[1].error is not None
    assert outcomes[1].error.code == "E-MEM-18"
    assert outcomes[1].error.exit_code == 6
    assert "case99" in outcomes[1].error.what


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bug_is_not_swallowed(workers: int) -> None:
    with pytest.raises(ZeroDivisionError):
        map_cases(divide, [("a", 1), ("b", 0)], workers, "dividing")


def test_workers_end_with_a_killed_parent() -> None:
    program = (
        "import os, time\n"
        "from tests.test_parallel import report\n"
        "from samora_pipeline.parallel import map_cases\n"
        "if __name__ == '__main__':\n"
        "    map_cases(report, [('a', 1), ('b', 2)], 2, 'waiting')\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(worker)


def test_workers_are_bounded_by_work_cases_and_memory() -> None:
    assert suggest_workers([]) == 1
    assert suggest_workers([1000] * 50) == 1
    assert 1 <= suggest_workers([40 * 10**6] * 4) <= min(4, cores().value)
    assert suggest_workers([10**12, 10**12]) == 1


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Dask cluster of two processes."""
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as running:
        yield running.scheduler_address


def process_of(value: int) -> int:
    time.sleep(0.2)
    return os.getpid() + 0 * value


def test_a_dask_cluster_gives_the_same_outcomes_in_other_processes(cluster: str) -> None:
    engine = Engine(dask=cluster)
    items = [(f"case{value}", value) for value in (3, -1, 4, 5, -2, 6)]
    outcomes = engine.map(square, items, "squaring")
    assert [outcome.result for outcome in outcomes] == [9, None, 16, 25, None, 36]
    errors = [(outcome.error.code, outcome.error.what) for outcome in outcomes if outcome.error]
    assert errors == [("E-IMG-02", "-1 is damaged"), ("E-IMG-02", "-2 is damaged")]
    processes = {outcome.result for outcome in engine.map(process_of, items, "collecting")}
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_a_bug_on_a_cluster_is_not_swallowed(cluster: str) -> None:
    with pytest.raises(ZeroDivisionError):
        Engine(dask=cluster).map(divide, [("a", 1), ("b", 0)], "dividing")


@pytest.mark.parametrize("workers", [1, 0])
def test_a_case_that_kills_its_worker_and_a_cluster_without_workers(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")

    with distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as running:
        engine = Engine(dask=running.scheduler_address)
        if workers:
            outcomes = engine.map(square, [("case99", 99)], "squaring")
            assert outcomes[0].error is not None
            assert (outcomes[0].error.code, "case99" in outcomes[0].error.what) == ("E-MEM-18", True)
            return
        monkeypatch.setattr("samora_pipeline.clusters._PATIENCE_SECONDS", 0.2)
        with pytest.raises(SamoraError, match=r"(?s)E-DASK-02.*no worker for 0.2 s"):
            engine.map(square, [("case1", 1)], "squaring")


def test_without_a_cluster_or_without_dask_the_way_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    monkeypatch.setattr("samora_pipeline.clusters._CONNECT_SECONDS", 0.3)
    with pytest.raises(SamoraError, match="E-DASK-02") as caught:
        Engine(dask="tcp://127.0.0.1:9").map(square, [("a", 1)], "squaring")
    assert (caught.value.exit_code, "127.0.0.1:9" in caught.value.what) == (6, True)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SamoraError, match="E-DASK-01") as caught:
        Engine(dask="tcp://127.0.0.1:9").map(square, [("a", 1)], "squaring")
    assert caught.value.exit_code == 5


def report(_: int) -> None:
    os.write(1, f"{os.getpid()}\n".encode())
    time.sleep(60)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as stream:  # noqa: PTH123 - a pseudo file
        return stream.read().rpartition(")")[2].split()[0] != "Z"
