"""How ranks join: what a process group is asked for on each kind of device."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from samora_pipeline import distributed

TEN_MINUTES = timedelta(minutes=10)
"""NCCL's own patience, which choosing a pool of 100,000 slices outlasts"""


@pytest.mark.parametrize(
    ("device", "backend"), [(torch.device("cuda", 1), "nccl"), (torch.device("cpu"), "gloo")], ids=["cuda", "cpu"]
)
def test_ranks_name_their_device_and_are_patient(
    device: torch.device, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **options: asked.append((backend, options)))
    monkeypatch.setenv("WORLD_SIZE", "2")
    distributed.start(device)
    ((found, options),) = asked
    assert found == backend
    assert options["timeout"] > 6 * TEN_MINUTES
    assert options.get("device_id") == (device if backend == "nccl" else None)


def test_nothing_is_joined_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: pytest.fail("joined"))
    for size in (None, "1"):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if size is not None:
            monkeypatch.setenv("WORLD_SIZE", size)
        distributed.start(torch.device("cpu"))
