import os
import signal
import subprocess
import sys
import time

import pytest

from samora_pipeline.errors import DataError
from samora_pipeline.parallel import map_cases, suggest_workers


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
    assert 1 <= suggest_workers([40 * 10**6] * 4) <= min(4, os.cpu_count() or 1)
    assert suggest_workers([10**12, 10**12]) == 1


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
