"""The device refuses what CUDA refuses, counts what the host waits for, and a training on it learns."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.pretend_cuda.attention import REAL_ATTENTION
from tests.pretend_cuda.device import REAL_GENERATOR, PretendCuda
from tests.pretend_cuda.tensors import any_active

REFUSED: dict[str, Callable[[torch.Tensor], Any]] = {
    "a tensor of the CPU": lambda x: x + torch.randn(4, 8),
    "a mask of the CPU": lambda x: torch.where(torch.ones(4, 8, dtype=torch.bool), x, x),
    "weights left on the CPU": lambda x: torch.nn.Linear(8, 8)(x),
    "numpy of a device tensor": lambda x: x.numpy(),
    "a generator of the CPU": lambda x: torch.randn(3, device="cuda", generator=torch.Generator()),
    "two types in a product": lambda x: functional.linear(x, torch.randn(8, 8, device="cuda").bfloat16()),
    "another device": lambda x: torch.zeros(1, device="cuda:3"),
}


@pytest.fixture(autouse=True)
def torch_is_as_before() -> Any:
    yield
    assert not any_active()
    assert torch.Generator is REAL_GENERATOR
    assert functional.scaled_dot_product_attention is REAL_ATTENTION


@pytest.mark.parametrize("name", REFUSED)
def test_what_cuda_refuses_is_refused(name: str) -> None:
    with PretendCuda():
        x = torch.randn(4, 8, device="cuda")
        with pytest.raises((RuntimeError, TypeError)):
            REFUSED[name](x)


def test_waits_are_counted() -> None:
    with PretendCuda() as device:
        x = torch.randn(4, 8, device="cuda")
        device.ledger.clear()
        x.sum().item()
        x[x > 0]
        x.cpu()
        torch.ones(1).to("cuda")
        torch.ones(1).pin_memory().to("cuda", non_blocking=True)
        assert sum(device.ledger.waits.values()) == 4


def test_a_training_in_bf16_learns() -> None:
    torch.manual_seed(0)
    with PretendCuda():
        x = torch.randn(4, 8, device="cuda")
        net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 2)).to("cuda")
        optimizer, target, losses = torch.optim.AdamW(net.parameters(), 1e-2), (x[:, 0] > 0).long(), []
        for _ in range(60):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16):
                out = net(x)
                loss = functional.cross_entropy(out, target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert out.dtype == torch.bfloat16
        assert losses[-1] < 0.2 * losses[0]


def test_memory_is_counted_bounded_and_let_go() -> None:
    with PretendCuda(numbers=False) as device:
        x = torch.empty(2**28, device="cuda")
        assert device.bytes == 2**30
        device.limit = 2**31
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(2**28 + 1, device="cuda")
        del x
        gc.collect()
        device.limit = None
        assert device.bytes == 0
        assert torch.cuda.max_memory_allocated() == 2**30


@pytest.mark.parametrize(
    ("kernel", "mask", "kind"),
    [
        ("flash", None, torch.float32),
        ("efficient", torch.ones(2, 1, 1, 50), torch.float32),
        ("efficient", torch.ones(50, 50, dtype=torch.bool), torch.bfloat16),
    ],
)
def test_attention_takes_the_fused_kernel(kernel: str, mask: torch.Tensor | None, kind: torch.dtype) -> None:
    with PretendCuda(numbers=False) as device:
        q = torch.empty(2, 4, 50, 16, device="cuda", dtype=kind, requires_grad=True)
        there = None if mask is None else mask.to("cuda")
        device.ledger.clear()
        with torch.autocast("cuda", torch.bfloat16):
            functional.scaled_dot_product_attention(q, q, q, attn_mask=there).float().sum().backward()
        seen = device.ledger.operations
        wanted = f"_scaled_dot_product_{kernel}_attention"
        assert seen[wanted] == seen[f"{wanted}_backward"] == 1
        assert "bmm" not in seen
        assert q.grad is not None
        assert q.grad.shape == q.shape


@pytest.mark.parametrize(
    ("ours", "expected"), [(("ours_",), "ours_/part.py:3 ("), ((), "theirs_.py:2  _local_scalar_dense")]
)
def test_lines_are_named(ours: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours_").mkdir()
    (tmp_path / "ours_/part.py").write_text("import theirs_\ndef go(x):\n    return theirs_.look(x)\n")
    (tmp_path / "theirs_.py").write_text("def look(x):\n    return x.sum().item()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from ours_ import part  # type: ignore[import-not-found]

    try:
        with PretendCuda(ours=ours) as device:
            part.go(torch.ones(3, device="cuda"))
        (line,) = device.ledger.waits
        assert expected in line
        assert "theirs_.py:2" in line
    finally:
        for name in ("ours_.part", "ours_", "theirs_"):
            del sys.modules[name]
