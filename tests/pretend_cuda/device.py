"""A CUDA device that is not there: torch believes in one GPU, the CPU computes.

``with PretendCuda() as device:`` makes torch believe in one GPU (bf16 included). Tensors say ``cuda:0`` and keep their
numbers in main memory. Every operation goes through ``__torch_dispatch__``, is refused where CUDA would refuse it, and
is then computed by the CPU:

- tensors of two devices in one operation, a generator of the other device, ``.numpy()`` of a device tensor, unequal
  types in a product: the error that CUDA raises;
- autocast is CUDA's own, with CUDA's lists of operations; products of bf16 are summed in fp32 and rounded once;
- optimizers, norms and clipping choose as on CUDA: foreach unless told otherwise, ``fused`` where asked for;
- each wait of the host for the device, each launch and each copy is counted with the line that caused it;
- ``limit`` makes allocations fail as on a device of that size; ``numbers=False`` keeps shapes alone (meta tensors), so
  that networks of any size show their memory, FLOPs and launches within seconds.

It shows mixed devices, types and generators, waits, memory, FLOPs and launches. It cannot show speed, kernels that give
wrong numbers, streams and overlap, NCCL's own behaviour, fragmentation and workspaces of cuDNN (10 to 30 % above the
peaks). Nothing here has been compared with a real GPU.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import optimizer as optimizers
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

from tests.pretend_cuda.attention import attention
from tests.pretend_cuda.backward import Saved, autograd_grad, task_id, tensor_backward
from tests.pretend_cuda.batch_norms import REFERENCES
from tests.pretend_cuda.launches import launches_of
from tests.pretend_cuda.ledger import Ledger, Lines
from tests.pretend_cuda.rules import check_devices, copied_pairs, is_bf16_product, waits
from tests.pretend_cuda.shapes import run_shapes
from tests.pretend_cuda.tensors import CudaTensor, activate, deactivate, held

# Lists by which torch decides whether a tensor may go the foreach or fused way. Both are read where they lie, by name,
# by torch.optim (_default_to_fused_or_foreach) and torch.nn.utils.clip_grad (_has_foreach_support).
FOREACH_TYPES: tuple[list[Any], ...] = (_foreach_utils._foreach_supported_types, optimizers._foreach_supported_types)
REAL_GENERATOR = torch.Generator


class PretendCuda(TorchDispatchMode):
    """The device.

    ``ours``: top folders of the packages whose lines are named. ``cuda``: major version whose limits a launch has.
    ``limit``: bytes beyond which nothing can be allocated (None: no end).
    """

    def __init__(
        self, *, total_gib: float = 80.0, numbers: bool = True, index: int = 0, ours: Sequence[str] = (), cuda: int = 13
    ) -> None:
        super().__init__()
        self.device = torch.device("cuda", index)
        self.numbers = numbers
        self.home = torch.device("cpu" if numbers else "meta")
        self.ledger, self.lines = Ledger(), Lines(ours)
        self.total = int(total_gib * 2**30)
        self.bytes = self.peak = 0
        self.limit: int | None = None
        self.stack = contextlib.ExitStack()
        self.cuda = cuda
        self.node = ""
        self.count_lines = True
        self._storages: dict[int, int] = {}
        self._generators: set[int] = set()
        self._pinned: set[int] = set()

    # -- the device that torch sees

    def __enter__(self) -> PretendCuda:
        torch._C._ensureCUDADeviceGuardSet()  # one that does nothing, without a driver
        activate(self)
        for owner, names in self._replacements().items():
            for name, value in names.items():
                if hasattr(owner, name):
                    self.stack.callback(setattr, owner, name, getattr(owner, name))
                    setattr(owner, name, value)
        for types in FOREACH_TYPES:
            types.append(CudaTensor)
            self.stack.callback(types.remove, CudaTensor)
        swaps = torch.__future__
        self.stack.callback(swaps.set_swap_module_params_on_conversion, swaps.get_swap_module_params_on_conversion())
        swaps.set_swap_module_params_on_conversion(True)
        # torch.tensor(..., device="cuda") is then made on the CPU and moved by an operation that is seen here.
        lifting: Any = torch._C
        self.stack.callback(lifting._set_only_lift_cpu_tensors, lifting._only_lift_cpu_tensors())
        lifting._set_only_lift_cpu_tensors(True)
        self.stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # its batch norm has no twin on the CPU
        self.stack.enter_context(torch.autograd.graph.saved_tensors_hooks(Saved, Saved.take))
        super().__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)
        self.stack.close()
        deactivate(self)

    def _replacements(self) -> dict[Any, dict[str, Any]]:
        replaced: dict[Any, dict[str, Any]] = {
            torch.cuda: self._cuda_module(),
            torch.Tensor: {
                "backward": tensor_backward,
                "pin_memory": lambda tensor, device=None: self._pin(tensor),
                "is_pinned": lambda tensor, device=None: id(tensor) in self._pinned,
            },
            # Tensor subclasses do not get along with inference mode; the CPU's own tests run in it.
            torch: {"Generator": self._generator_class(), "inference_mode": lambda mode=True: torch.no_grad()},
            torch.autograd: {"grad": autograd_grad},
            torch._C: {"_current_graph_task_id": task_id},
        }
        if not self.numbers:
            replaced[torch.nn.functional] = {"scaled_dot_product_attention": attention}
        return replaced

    def _cuda_module(self) -> dict[str, Any]:
        return {
            "is_available": lambda: True,
            "device_count": lambda: self.device.index + 1,
            "current_device": lambda: self.device.index,
            "set_device": lambda device: None,
            "_lazy_init": lambda: None,
            "_lazy_call": lambda call, **how: None,
            "is_initialized": lambda: True,
            "synchronize": lambda device=None: self._wait("synchronize"),
            "empty_cache": lambda: None,
            "mem_get_info": lambda device=None: (self.total - self.bytes, self.total),
            "memory_allocated": lambda device=None: self.bytes,
            "max_memory_allocated": lambda device=None: self.peak,
            "reset_peak_memory_stats": lambda device=None: self.reset_peak(),
            "get_device_name": lambda device=None: "Pretended CUDA device",
            "get_device_capability": lambda device=None: (9, 0),
            "is_bf16_supported": lambda including_emulation=True: True,
            "manual_seed_all": lambda seed: None,
            "manual_seed": lambda seed: None,
            "is_current_stream_capturing": lambda: False,
        }

    def reset_peak(self) -> None:
        """Forget how much was held at most."""
        self.peak = self.bytes

    def _pin(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, CudaTensor):
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
        copy = tensor.clone()
        self._pinned.add(id(copy))
        weakref.finalize(copy, self._pinned.discard, id(copy))
        return copy

    def _generator_class(self) -> Any:
        class Kind(type):
            def __instancecheck__(cls, value: Any) -> bool:
                return isinstance(value, REAL_GENERATOR)

        def new(cls: Any, device: Any = "cpu") -> Any:
            made: Any = REAL_GENERATOR("cpu")
            if torch.device(device).type == "cuda":
                self._generators.add(made._cdata)
                weakref.finalize(made, self._generators.discard, made._cdata)
                self.ledger.kinds["generator", self.lines.line()] += 1
            return made

        return Kind("Generator", (), {"__new__": new})

    # -- every operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Compute one operation of ATen, or refuse it as CUDA does."""
        flat, _ = tree_flatten((args, kwargs))
        tensors = [value for value in flat if isinstance(value, torch.Tensor)]
        mine = [tensor for tensor in tensors if isinstance(tensor, CudaTensor)]
        asked = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        self._check_index(asked)
        if not mine and (asked is None or asked.type != "cuda"):
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name == "_fused_sdp_choice":
            return 0  # unfused, in torch built without CUDA; see attention.py
        self._check(name, args, kwargs, tensors, asked)
        result = self._compute(func, name, args, kwargs, asked)
        self._count(func, name, args, mine)
        if asked is not None and asked.type == "cpu":
            return result
        wrapped = tree_map(self._wrap, result)
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if mine else wrapped

    def _check_index(self, asked: torch.device | None) -> None:
        if asked is not None and asked.type == "cuda" and asked.index not in (None, self.device.index):
            where = self.lines.line()
            raise RuntimeError(f"{asked} was asked for by {where}; this process works on {self.device}")

    def _check(self, name: str, args: Any, kwargs: Any, tensors: list[Any], asked: torch.device | None) -> None:
        """Refuse what CUDA refuses, and note the waits."""
        for _ in range(check_devices(name, args, tensors, self.device)):
            self._wait(f"{name} by positions on the CPU")
        generator = kwargs.get("generator")
        if generator is not None and generator._cdata not in self._generators:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        copies = copied_pairs(name, args, kwargs, asked)
        for source, here, there, patient in copies:
            self._note_copy(source, here=here, there=there, patient=patient)
        if not copies and waits(name, args):
            self._wait(name)

    def _note_copy(self, source: Any, *, here: bool, there: bool, patient: bool) -> None:
        if here == there:
            return
        way = "device to host" if here else "host to device"
        pinned = id(source) in self._pinned
        if here or not (patient and pinned):
            self._wait(way)
        if not here and patient and not pinned:
            self.ledger.unpinned[self.lines.line()] += 1
        self.ledger.kinds[way, self.lines.line()] += 1

    def _wait(self, what: str) -> None:
        self.ledger.waits[f"{self.lines.cause(self.node)}  {what}"] += 1

    def _compute(self, func: Any, name: str, args: Any, kwargs: Any, asked: torch.device | None) -> Any:
        args, kwargs = tree_map(held, args), tree_map(held, kwargs)
        if asked is not None:
            kwargs["device"] = self.home if asked.type == "cuda" else asked
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if not self.numbers:
            return run_shapes(func, args, kwargs, asked, self.ledger)
        if is_bf16_product(name, args, kwargs):
            return tree_map(_narrow, func(*tree_map(_wide, args), **tree_map(_wide, kwargs)))
        reference = REFERENCES.get(name)
        return reference(*args, **kwargs) if reference else func(*args, **kwargs)

    def _count(self, func: Any, name: str, args: Any, mine: list[CudaTensor]) -> None:
        launches = launches_of(func, args, self.cuda)
        if launches:
            self.ledger.launches[self.lines.line() if self.count_lines else ""] += launches
            self.ledger.operations[name] += launches
            for dtype in {str(t.dtype).removeprefix("torch.") for t in mine}:
                self.ledger.dtypes[name, dtype] += 1

    # -- memory

    def _wrap(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, CudaTensor):
            return value
        self._account(value)
        return CudaTensor(value)

    def _account(self, value: torch.Tensor) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        size = storage.nbytes()
        if self.limit is not None and self.bytes + size > self.limit:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. GPU 0 has a total capacity of "
                f"{self.limit / 2**30:.2f} GiB of which {(self.limit - self.bytes) / 2**20:.2f} MiB is free."
            )
        self._storages[key] = size
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.bytes -= self._storages.pop(key, 0)


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 else value


def _narrow(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, torch.Tensor) else value
