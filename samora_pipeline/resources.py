"""What this process may use of its machine, cores and memory, and which limit decided.

A job on a cluster or in a container has a share of the machine, which ``os.cpu_count`` and /proc/meminfo do not show.
Here every limit that can be read is one ``Amount``, and the smallest one counts. Nothing is cached: memory changes.

Sources: proc_pid_status(5), proc_pid_cgroup(5), proc_pid_mountinfo(5), proc_pid_limits(5), proc_meminfo(5); cgroups(7)
and the kernel's cgroup-v2.rst, cgroup-v1/memory.rst and scheduler/sched-bwc.rst; sbatch(1), "Output environment
variables"; qsub(1B) of OpenPBS (NCPUS) and of TORQUE (PBS_NP, PBS_NUM_PPN). PBS names no memory in its environment: it
sets a cgroup or a limit of the process, and both are read.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""what OpenMP (torch, MKL), OpenBLAS and MKL read when they are loaded"""

CORES, MEMORY = "SAMORA_CORES", "SAMORA_MEMORY_MIB"
"""a share of the machine that a caller gives this process, as samora_study does to the runs that it has at once"""
_SLURM_CORES = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
_PBS_CORES = ("NCPUS", "PBS_NUM_PPN", "PBS_NP")
_ROOT = Path("/")

set_by_us: list[str] = []
"""the variables that ``limit_threads`` set in this process"""


@dataclass(frozen=True)
class Amount:
    """Cores, or bytes of memory, and what limits them to that, in words."""

    value: int
    why: str


def cores(root: Path = _ROOT, variables: Mapping[str, str] | None = None) -> Amount:
    """How many cores this process can keep busy, at least 1.

    The least of its affinity, of the CPU quota of its cgroups (both versions, every level that can be seen; a quota of
    2.5 cores counts as 2, because a third busy thread would be stopped half of the time), and of what Slurm, PBS or
    ``SAMORA_CORES`` gave the job. OMP_NUM_THREADS is a choice within that and no limit of it.

    Args:
        root: where ``proc`` and ``sys`` lie; another folder holds the recording of a machine.
        variables: the environment; None: that of this process.
    """
    given = os.environ if variables is None else variables
    found = [_affinity(root), *_quotas(root), *_scheduled_cores(given)]
    return min(found, key=lambda amount: amount.value)


def memory(root: Path = _ROOT, variables: Mapping[str, str] | None = None) -> Amount:
    """How many bytes of memory this process can still have, at least 0.

    The least of what the machine has left, what the system only keeps of files included; of what the cgroups have left
    below their limits, where file cache that can be dropped (``inactive_file``) is not counted as used; of what Slurm
    or ``SAMORA_MEMORY_MIB`` gave the job less what this process holds; and of the limits of the process
    (``ulimit -v``, ``ulimit -d``).

    Args:
        root: where ``proc`` and ``sys`` lie; another folder holds the recording of a machine.
        variables: the environment; None: that of this process.
    """
    given = os.environ if variables is None else variables
    found = [_machine_memory(root), *_grouped_memory(root), *_scheduled_memory(root, given), *_process_limits(root)]
    least = min(found, key=lambda amount: amount.value)
    return Amount(max(0, least.value), least.why)


def resident(root: Path = _ROOT) -> int:
    """The bytes of memory that this process holds now; 0 where the system has no /proc."""
    return _kib(root, "VmRSS")


def limit_threads() -> None:
    """Have numeric libraries that are loaded later start no more threads than this process has cores.

    They count the cores of the affinity themselves, so nothing is done unless another limit is lower. Variables that
    are set already stay as they are.
    """
    own = cores()
    if own.value >= _affinity(_ROOT).value:
        return
    for name in THREADS:
        if name not in os.environ:
            os.environ[name] = str(own.value)
            set_by_us.append(name)


def _affinity(root: Path) -> Amount:
    """The cores that the process may run on, cpusets of containers and jobs included."""
    allowed = _field(root / "proc/self/status", "Cpus_allowed_list")
    if not allowed:  # No Linux: there is no affinity to ask for.
        return Amount(os.cpu_count() or 1, "the cores of the machine")
    count = _listed(allowed)
    online = _text(root / "sys/devices/system/cpu/online")
    if online and count >= _listed(online):
        return Amount(count, "the cores of the machine")
    return Amount(count, f"affinity: cores {allowed}{f' of {online}' if online else ''}")


def _quotas(root: Path) -> Iterator[Amount]:
    """The CPU quotas of the cgroups: ``cpu.max`` (v2) or ``cpu.cfs_quota_us`` over ``cpu.cfs_period_us`` (v1)."""
    for group in _groups(root, "cpu"):
        words = _text(group / "cpu.max").split() or [
            _text(group / "cpu.cfs_quota_us"),
            _text(group / "cpu.cfs_period_us"),
        ]
        quota, period = (_number(word) for word in (*words, "")[:2])
        if quota is not None and quota > 0 and period:
            yield Amount(max(1, quota // period), f"CPU quota of {quota / period:g} cores ({_shown(group, root)})")


def _scheduled_cores(variables: Mapping[str, str]) -> Iterator[Amount]:
    names = (CORES, *_SLURM_CORES, *(_PBS_CORES if "PBS_JOBID" in variables else ()))
    for name in names:
        if count := _number(variables.get(name, "")):
            yield Amount(count, f"{name}={count}")


def _machine_memory(root: Path) -> Amount:
    stated = _field(root / "proc/meminfo", "MemAvailable").split()
    if stated:
        return Amount(int(stated[0]) << 10, "what the machine has available")
    # No Linux: there is only the size of all of it.
    return Amount(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "all memory of the machine")


def _grouped_memory(root: Path) -> Iterator[Amount]:
    """What is left in each cgroup below ``memory.max`` and ``memory.high`` (v2) or ``memory.limit_in_bytes`` (v1)."""
    for group in _groups(root, "memory"):
        limits = [
            _number(_text(group / name)) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")
        ]  # "max" is no number: no limit
        limit = min((limit for limit in limits if limit is not None), default=None)
        used = _number(_text(group / "memory.current") or _text(group / "memory.usage_in_bytes"))
        if limit is None or used is None:
            continue
        stat = dict(line.split() for line in _text(group / "memory.stat").splitlines())
        used -= min(used, int(stat.get("total_inactive_file", stat.get("inactive_file", "0"))))
        words = f"memory limit of {limit / GIB:.1f} GiB, {used / GIB:.1f} of it used ({_shown(group, root)})"
        yield Amount(limit - used, words)


def _scheduled_memory(root: Path, variables: Mapping[str, str]) -> Iterator[Amount]:
    """The memory of the job on this node in MiB; 0 of Slurm's stands for all of the node's."""
    held = resident(root)
    for name in (MEMORY, "SLURM_MEM_PER_NODE"):
        if whole := _number(variables.get(name, "")):
            yield Amount((whole << 20) - held, f"{name}={whole}, {held / GIB:.1f} GiB held by this process")
    each = _number(variables.get("SLURM_MEM_PER_CPU", ""))
    if each:
        count = _number(variables.get("SLURM_CPUS_ON_NODE", "")) or cores(root, variables).value
        words = f"SLURM_MEM_PER_CPU={each} for {count} cores, {held / GIB:.1f} GiB held by this process"
        yield Amount((each * count << 20) - held, words)


def _process_limits(root: Path) -> Iterator[Amount]:
    for name, held, flag in (("Max address space", "VmSize", "-v"), ("Max data size", "VmData", "-d")):
        line = next((line for line in _text(root / "proc/self/limits").splitlines() if line.startswith(name)), "")
        limit = _number((line.removeprefix(name).split() or [""])[0])
        if limit is not None:
            used = _kib(root, held)
            words = f"ulimit {flag} of {limit / GIB:.1f} GiB, {used / GIB:.1f} of it used by this process"
            yield Amount(limit - used, words)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the cgroups that this process belongs to, each with its parents as far as they can be seen.

    A controller is in the tree of version 2 or in one of version 1; where both are mounted (hybrid), the files that
    the other tree lacks tell which. Inside a container the path in /proc/self/cgroup may be the host's: it is taken
    relative to what is mounted, and where that does not fit, what is mounted is the group itself.
    """
    own: dict[str, str] = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, member = line.split(":", 2)
        own.update(dict.fromkeys(names.split(","), member))
    mounts = _cgroup_mounts(root)
    for name in (controller, ""):
        if name not in own or name not in mounts:
            continue
        top, point = mounts[name]
        path = Path(own[name])
        inside = path.relative_to(top) if path.is_relative_to(top) and ".." not in path.parts else Path()
        folder = root / point.relative_to("/")
        for depth in range(len(inside.parts), -1, -1):
            yield folder.joinpath(*inside.parts[:depth])


def _cgroup_mounts(root: Path) -> dict[str, tuple[Path, Path]]:
    """By controller ("" for version 2): which folder of the tree is mounted, and where."""
    found: dict[str, tuple[Path, Path]] = {}
    for line in _text(root / "proc/self/mountinfo").splitlines():
        words = line.split()
        kind, _, options = words[words.index("-") + 1 :][:3]
        names = {"cgroup": options.split(","), "cgroup2": [""]}.get(kind, [])
        for name in names:
            found.setdefault(name, (Path(words[3]), Path(words[4])))
    return found


def _shown(group: Path, root: Path) -> str:
    return f"/{group.relative_to(root)}"


def _kib(root: Path, name: str) -> int:
    """A size of this process in bytes, which /proc/self/status gives in KiB."""
    return int((_field(root / "proc/self/status", name).split() or ["0"])[0]) << 10


def _field(path: Path, name: str) -> str:
    """The value of the line ``name: value``; empty without it."""
    lines = (line.partition(":") for line in _text(path).splitlines())
    return next((value.strip() for key, _, value in lines if key == name), "")


def _listed(cpus: str) -> int:
    """How many cores a list such as 0-3,8 names."""
    parts = (part.partition("-") for part in cpus.split(","))
    return sum(int(last or first) - int(first) + 1 for first, _, last in parts)


def _number(text: str) -> int | None:
    """A whole number, also a negative one; None for anything else (``max``, ``unlimited``, nothing)."""
    try:
        return int(text)
    except ValueError:
        return None


def _text(path: Path) -> str:
    """A small file without the white space around it; empty where it is not there or must not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
