"""Cores and memory of this process: the least of all limits, on recorded machines, and who takes them from there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from samora_pipeline import parallel, resources
from samora_pipeline.resources import Amount, cores, memory

ROOT = Path(__file__).parents[1]
RECORDED = Path(__file__).parent / "recorded_machines"
GIB = 1 << 30


def machine(name: str, folder: Path) -> Path:
    """A recorded machine as files below ``folder``."""
    for part in (RECORDED / f"{name}.txt").read_text(encoding="utf-8").split("== ")[1:]:
        path, _, text = part.partition("\n")
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "number", "why"),
    [
        ("hybrid", 2, "the cores of the machine"),
        ("systemd_slices_v2", 3, "CPU quota of 3.5 cores (/sys/fs/cgroup/user.slice/user-1000.slice)"),
        ("docker_private_v2", 2, "CPU quota of 2 cores (/sys/fs/cgroup)"),
        ("docker_v1", 2, "CPU quota of 2.5 cores (/sys/fs/cgroup/cpu,cpuacct)"),
        ("bare_v1", 4, "affinity: cores 0,2,4-5 of 0-7"),
        ("slurm_v2", 4, "affinity: cores 16-19 of 0-127"),
    ],
)
def test_cores_of_recorded_machines(tmp_path: Path, name: str, number: int, why: str) -> None:
    assert cores(machine(name, tmp_path), {"OMP_NUM_THREADS": "1"}) == Amount(number, why)


@pytest.mark.parametrize(
    ("name", "size", "why"),
    [
        ("hybrid", 21660532 << 10, "what the machine has available"),
        # 8 GiB, of which 6 are used and 4 of these hold files that can be dropped; the limit is two levels up.
        ("systemd_slices_v2", 6 * GIB, "memory limit of 8.0 GiB, 2.0 of it used"),
        ("docker_private_v2", 3 * GIB, "memory limit of 4.0 GiB, 1.0 of it used (/sys/fs/cgroup)"),
        # What the group's children hold of files counts too, as its usage does (hierarchical).
        ("docker_v1", GIB + 4096, "memory limit of 2.0 GiB, 1.0 of it used (/sys/fs/cgroup/memory)"),
        ("bare_v1", 9000000 << 10, "what the machine has available"),
        ("slurm_v2", 15 * GIB, "memory limit of 16.0 GiB, 1.0 of it used"),
        ("unconfined_node", 6 * GIB, "ulimit -v of 8.0 GiB, 2.0 of it used by this process"),
    ],
)
def test_memory_of_recorded_machines(tmp_path: Path, name: str, size: int, why: str) -> None:
    found = memory(machine(name, tmp_path), {})
    assert (found.value, found.why[: len(why)]) == (size, why)


@pytest.mark.parametrize(
    ("variables", "number"),
    [
        ({}, 128),
        ({"SLURM_CPUS_ON_NODE": "8"}, 8),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "4"}, 4),
        ({"PBS_JOBID": "17.head", "NCPUS": "6", "PBS_NP": "12"}, 6),
        ({"PBS_JOBID": "17.head", "PBS_NUM_PPN": "3", "PBS_NP": "12"}, 3),
        ({"NCPUS": "6"}, 128),
        ({"SLURM_CPUS_ON_NODE": "many", "OMP_NUM_THREADS": "1"}, 128),
    ],
)
def test_what_slurm_and_pbs_gave_counts(tmp_path: Path, variables: dict[str, str], number: int) -> None:
    assert cores(machine("unconfined_node", tmp_path), variables).value == number


@pytest.mark.parametrize(
    ("variables", "size"),
    [
        ({"SLURM_MEM_PER_NODE": "5120"}, 4 * GIB),
        ({"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "4"}, 3 * GIB),
        ({"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_PER_TASK": "3"}, 2 * GIB),
        ({"SLURM_MEM_PER_NODE": "0"}, 6 * GIB),
        ({"SLURM_MEM_PER_NODE": "512"}, 0),
    ],
)
def test_memory_that_slurm_gave_counts(tmp_path: Path, variables: dict[str, str], size: int) -> None:
    found = memory(machine("unconfined_node", tmp_path), variables)
    assert found.value == size
    assert size == 6 * GIB or "SLURM_MEM" in found.why


def test_a_group_outside_of_what_is_mounted_is_what_is_mounted(tmp_path: Path) -> None:
    root = machine("docker_private_v2", tmp_path)
    for path in ("/../../pod7/other", "/not/there"):
        (root / "proc/self/cgroup").write_text(f"0::{path}\n")
        assert memory(root, {}).value == 3 * GIB
    mounts = root / "proc/self/mountinfo"
    mounts.write_text(mounts.read_text().replace("0:26 / ", "0:26 /system.slice/docker-4c1d.scope "))
    (root / "proc/self/cgroup").write_text("0::/system.slice/docker-4c1d.scope\n")
    assert memory(root, {}).value == 3 * GIB
    assert cores(root, {}).value == 2


def test_where_there_is_no_proc_the_system_is_asked(tmp_path: Path) -> None:
    assert cores(tmp_path, {}) == Amount(os.cpu_count() or 1, "the cores of the machine")
    found = memory(tmp_path, {})
    assert found.why == "all memory of the machine"
    assert found.value > GIB


def test_affinity_and_ulimit_of_a_real_process_are_seen() -> None:
    program = (
        "import os, resource\n"
        "from samora_pipeline.resources import cores, memory\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 29, -1))\n"
        "print(cores().value, memory().value < 1 << 29, memory().why[:9])\n"
    )
    words = [sys.executable, "-c", program]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "1 True ulimit -v\n"


def test_workers_follow_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [10**9] * 40
    monkeypatch.setattr(resources, "cores", lambda: Amount(4, ""))
    monkeypatch.setattr(resources, "memory", lambda: Amount(1 << 40, ""))
    assert parallel.suggest_workers(sizes) == 4
    monkeypatch.setattr(resources, "memory", lambda: Amount(32 * GIB, ""))
    assert parallel.suggest_workers(sizes) == 2


def test_libraries_start_no_more_threads_than_a_quota_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in resources.THREADS:
        monkeypatch.setenv(name, "")  # so that it is put back as it was
        monkeypatch.delenv(name)
    monkeypatch.setattr(resources, "set_by_us", [])
    resources.limit_threads()
    assert resources.set_by_us == []  # affinity alone: the libraries see it themselves
    monkeypatch.setattr(resources, "cores", lambda: Amount(0, "less than any affinity"))
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    resources.limit_threads()
    assert [os.environ[name] for name in resources.THREADS] == ["0", "0", "7"]
    # A worker has one thread, but for what the user said.
    monkeypatch.setattr(threading, "Thread", lambda **how: type("None", (), {"start": lambda self: None})())
    parallel._start_worker(tuple(resources.set_by_us))
    assert [os.environ[name] for name in resources.THREADS] == ["1", "1", "7"]


def test_nothing_else_asks_the_machine() -> None:
    asked = []
    for package in ("samora_pipeline", "planners", "trainers", "dataset_conversion", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                named = isinstance(node, ast.Attribute) and node.attr in ("cpu_count", "sched_getaffinity")
                text = str(node.value) if isinstance(node, ast.Constant) else ""
                if named or ("/meminfo" in text and len(text) < 40):
                    asked.append(path.name)
    assert set(asked) == {"resources.py"}
