"""The backward pass gives the CPU's gradients, adds up, and takes gradients over without a copy."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.pretend_cuda.device import PretendCuda


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.LayerNorm(6)
        self.table, self.out = torch.nn.Parameter(torch.randn(9, 6)), torch.nn.Linear(6, 2)

    def forward(self, x: torch.Tensor, *, again: bool) -> torch.Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        y = y + self.table[torch.arange(8).clamp(0, 5).to(x.device)]
        last = checkpoint(self._last, y, use_reentrant=False) if again else self._last(y)
        return last.square().mean()

    def _last(self, y: torch.Tensor) -> torch.Tensor:
        return self.out(functional.gelu(y))


def _gradients(net: Net) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.cpu() for name, parameter in net.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("again", [False, True], ids=["kept", "checkpointed"])
def test_gradients_are_those_of_the_cpu(again: bool) -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 1, 8, 8)
    for _ in range(2):
        net(x, again=False).backward()
    right = _gradients(net)
    net.zero_grad()
    with PretendCuda() as device:
        net.to("cuda")
        for _ in range(2):
            net(x.to("cuda"), again=again).backward()
        found = _gradients(net)
        net.zero_grad()
        device.ledger.clear()
        net(x.to("cuda"), again=again).backward()
        copies = device.ledger.operations["clone"] + device.ledger.operations["copy_"]
        net.zero_grad()
        net.to("cpu")
    assert found.keys() == right.keys()
    assert max((right[name] - value).abs().max().item() for name, value in found.items()) < 1e-6
    assert copies == 0


def test_a_shared_gradient_is_copied() -> None:
    with PretendCuda():
        a, b = (torch.zeros(3, device="cuda", requires_grad=True) for _ in range(2))
        (a + b).sum().backward()
        assert a.grad is not None
        assert b.grad is not None
        a.grad.add_(1)
        assert b.grad.cpu().tolist() == [1, 1, 1]


def test_a_gradient_lies_as_its_leaf() -> None:
    with PretendCuda():
        turned = torch.zeros(3, 4, device="cuda", requires_grad=True)
        (turned.t() * torch.ones(4, 3, device="cuda")).sum().backward()
        assert turned.grad is not None
        assert turned.grad.stride() == (4, 1)
