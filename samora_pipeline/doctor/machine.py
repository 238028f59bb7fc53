"""Probes of the machine: devices, threads, memory, shared memory and the number of open files."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from samora_pipeline.doctor.findings import RESOURCES, Finding

_GIB = 1 << 30
_SHARED_MEMORY = Path("/dev/shm")
_MEMORY = Path("/proc/meminfo")
_DRIVER = Path("/proc/driver/nvidia/version")
_ENOUGH_MEMORY, _LEAST_MEMORY = 8.0, 2.0
_ENOUGH_SHARED = 1.0
_ENOUGH_FILES = 1024


def devices() -> Iterator[Finding]:
    """GPUs with their memory, or why there is none, and what the CPU multiplies in."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        free, total = torch.cuda.mem_get_info(index)
        text = f"{torch.cuda.get_device_name(index)}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
        yield Finding(f"cuda:{index}", "ok", text)
    if not count:
        yield _no_gpu(torch.version.cuda, driver=_DRIVER.is_file())
    from samora_pipeline.inference.device import cpu_bf16_instructions

    instructions = cpu_bf16_instructions()
    yield Finding("cpu", "ok", f"bfloat16 by {instructions}" if instructions else "no bfloat16: single precision")


def threads() -> Iterator[Finding]:
    """The threads of torch beside the cores that this process may use."""
    import torch

    cores = usable_cores()
    stated = os.environ.get("OMP_NUM_THREADS", "")
    text = f"{torch.get_num_threads()} of torch on {cores} usable cores"
    text += f" (OMP_NUM_THREADS={stated})" if stated else ""
    if torch.get_num_threads() > cores:
        yield Finding("threads", "warn", text, f"export OMP_NUM_THREADS={cores}")
    else:
        yield Finding("threads", "ok", text)


def memory() -> Iterator[Finding]:
    """Main memory that is available now."""
    if not _MEMORY.is_file():
        yield Finding("memory", "ok", "not stated by this system")
        return
    lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines() if ":" in line)
    total, free = (int(lines[key].split()[0]) / (1 << 20) for key in ("MemTotal", "MemAvailable"))
    text = f"{free:.1f} of {total:.1f} GiB available"
    if free < _LEAST_MEMORY:
        yield Finding("memory", "fail", text, "end other programs, or take a larger machine", RESOURCES)
    elif free < _ENOUGH_MEMORY:
        yield Finding("memory", "warn", text, "-np 1 and a small --set finetune.micro_batch=1 keep the need low")
    else:
        yield Finding("memory", "ok", text)


def shared_memory() -> Iterator[Finding]:
    """Room in /dev/shm, through which worker processes hand arrays over."""
    if not _SHARED_MEMORY.is_dir():
        yield Finding("shared memory", "ok", f"no {_SHARED_MEMORY} on this system")
        return
    usage = shutil.disk_usage(_SHARED_MEMORY)
    text = f"{usage.free / _GIB:.2f} of {usage.total / _GIB:.2f} GiB free in {_SHARED_MEMORY}"
    if usage.free < _ENOUGH_SHARED * _GIB:
        yield Finding("shared memory", "warn", text, "docker run --shm-size 8g ...; without docker: -np 1")
    else:
        yield Finding("shared memory", "ok", text)


def open_files() -> Iterator[Finding]:
    """How many files a process may hold open."""
    if os.name != "posix":
        yield Finding("open files", "ok", "no limit that could be read on this system")
        return
    limits = importlib.import_module("resource")
    soft, hard = limits.getrlimit(limits.RLIMIT_NOFILE)
    if 0 <= soft < _ENOUGH_FILES:
        yield Finding("open files", "warn", f"at most {soft} (may be raised to {hard})", f"ulimit -n {min(4096, hard)}")
    else:
        yield Finding("open files", "ok", f"at most {soft}" if soft >= 0 else "unlimited")


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _no_gpu(built_for: str | None, *, driver: bool) -> Finding:
    if driver and built_for is None:
        text = "an NVIDIA driver is there, but this torch is built without CUDA"
        return Finding("cuda", "warn", text, "install the CUDA builds of torch and torchvision (pytorch.org)")
    if driver:
        text = f"an NVIDIA driver is there, but torch (CUDA {built_for}) finds no device"
        return Finding("cuda", "warn", text, "nvidia-smi  shows whether the driver is new enough for that CUDA")
    return Finding("cuda", "ok", "no GPU here; the CPU is used")
