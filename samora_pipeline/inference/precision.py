"""The type in which the convolutions and matrix products of a network are computed: bfloat16 or float32.

On CUDA it follows from the device. On a CPU it is measured: instructions for bfloat16 do not say that they are faster
(seen on one with avx512_bf16: half the throughput of float32), so both types are timed on the network's own shapes.
"""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from samora_pipeline.inference.device import prepared

Precision = Literal["auto", "bf16", "fp32"]
Build = Callable[[], nn.Module]
Shape = tuple[int, ...]
"""of a batch of images (B,C,N,N), or of volumes (B,C,D,H,W)"""

_CPUINFO = Path("/proc/cpuinfo")
# As /proc/cpuinfo calls them; "bf16" is that of ARM.
_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PROBE_FLOP = 2e9
"""operations of one timing at most: some tens of milliseconds of one core"""
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_PRODUCTS = (nn.Linear, *_CONVOLUTIONS)
_REPEATS, _PROBE_SECONDS = 4, 0.5
"""rounds of timing, and after how long no more of them are begun: a busy machine is slow at this, too"""
_WORTH = 1.1
"""how many times as fast products have to be in bfloat16, because inputs and outputs are converted as well"""


@dataclass(frozen=True)
class Arithmetic:
    """The type of a network's products, the reason, and what was timed: seconds by ``WHAT_TYPE`` (empty: nothing)."""

    dtype: torch.dtype = torch.float32
    why: str = "the default"
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> Literal["bf16", "fp32"]:
        """``bf16`` or ``fp32``."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which products on ``device`` are of this type."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)


SINGLE = Arithmetic()
"""single precision, where nothing was decided"""


def pick_arithmetic(
    device: torch.device,
    precision: Precision = "auto",
    build: Build | None = None,
    shape: Shape = (1, 1, 224, 224),
    *,
    training: bool = False,
) -> Arithmetic:
    """Decide the precision of products.

    - Asked for: as asked for; where it is emulated, bfloat16 is correct and slower by far.
    - CUDA: bfloat16 where the device multiplies in it (compute capability 8.0 and later), else single precision: V100
      and T4 have float16 only, whose range is too small for gradients without scaling.
    - CPU: single precision without instructions for bfloat16; otherwise what is faster on the network's own shapes.

    Args:
        device: where the network will run.
        precision: what was asked for.
        build: gives what will run, with float32 weights; None: nothing is timed, and a CPU stays in single precision.
        shape: of its images (B,C,N,N) or volumes (B,C,D,H,W).
        training: time forward and backward with weights that are converted at every call, as autocast does it;
            otherwise forward alone, with converted weights.
    """
    if precision != "auto":
        return Arithmetic(_TYPES[precision], "as asked for")
    native = native_bf16(device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if native:
            return Arithmetic(torch.bfloat16, f"{name} multiplies in bfloat16")
        return Arithmetic(torch.float32, f"{name} has no bfloat16")
    if not native:
        return Arithmetic(torch.float32, "this CPU has neither avx512_bf16 nor amx_bf16")
    if build is None:
        return Arithmetic(torch.float32, f"this CPU has {native}, and nothing was timed")
    # Nobody else's random numbers change by this.
    with torch.random.fork_rng(devices=[]):
        return _faster(build, shape, native, training=training)


def native_bf16(device: torch.device) -> str:
    """Name what multiplies in bfloat16 on a device, instructions of the CPU or "CUDA"; empty where nothing does."""
    if device.type == "cuda":
        return "CUDA" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    return cpu_bf16_instructions()


def cpu_bf16_instructions() -> str:
    """Name the instructions with which this CPU multiplies in bfloat16; empty when it has none."""
    if _CPUINFO.is_file():
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        # "flags" on x86, "Features" on ARM; all cores are alike, so the first line is enough.
        listed = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
        flags = set(listed.partition(":")[2].split())
        return next((flag for flag in _BF16_FLAGS if flag in flags), "")
    # Elsewhere torch's own test; it knows AVX-512 and AMX.
    if torch.cpu._is_amx_tile_supported():
        return "amx_bf16"
    return "avx512_bf16" if torch.cpu._is_avx512_bf16_supported() else ""


class Layer(NamedTuple):
    """One layer of a network as it runs: the module, the shape of its input and its operations (2 per product)."""

    module: nn.Module
    shape: tuple[int, ...]
    flop: float


class Timed(NamedTuple):
    """What is timed instead of a network: a module, its input, and how often its time counts."""

    module: nn.Module
    images: Tensor
    weight: float


def layers_of(network: nn.Module, shape: Shape) -> list[Layer]:
    """The linear and convolutional layers of a network in the order in which it runs them on images of ``shape``.

    It runs on the meta device, which has shapes and no values: in a fraction of a second, and nothing is changed.
    """
    found: list[Layer] = []

    def note(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        found.append(Layer(module, tuple(inputs[0].shape), 2.0 * output.numel() * module.weight[0].numel()))

    hooks = [part.register_forward_hook(note) for part in network.modules() if isinstance(part, _PRODUCTS)]
    state = chain(network.named_parameters(), network.named_buffers())
    tensors = {name: value.detach().to("meta") for name, value in state}
    try:
        with torch.no_grad():
            functional_call(network, tensors, (torch.empty(shape, device="meta"),))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _faster(build: Build, shape: Shape, native: str, *, training: bool) -> Arithmetic:
    try:
        pieces = _pieces(build, shape)
    except Exception as error:  # a module of a user's own may do anything; it only loses the choice
        reason = (str(error).splitlines() or [""])[0][:150]
        return Arithmetic(torch.float32, f"the network's shapes cannot be told ({type(error).__name__}: {reason})")
    seconds: dict[str, float] = {}
    whole = dict.fromkeys(_TYPES, 0.0)
    for name, piece in pieces.items():
        for dtype, value in _timed(piece, training=training).items():
            seconds[f"{name}_{dtype}"] = round(value, 6)
            whole[dtype] += value * piece.weight
    ratio = whole["fp32"] / max(whole["bf16"], 1e-12)
    shown = ", ".join(
        f"{name} {1000 * seconds[f'{name}_bf16']:.1f} ms in bf16 and {1000 * seconds[f'{name}_fp32']:.1f} in fp32"
        for name in pieces
    )
    faster = ratio > (1.0 if "network" in pieces else _WORTH)
    return Arithmetic(_TYPES["bf16" if faster else "fp32"], f"timed on this CPU with {native}: {shown}", seconds)


def _pieces(build: Build, shape: Shape) -> dict[str, Timed]:
    """What stands for a network in the timing: itself where one slice of it is little work, because then more than its
    products counts; else its largest product and its largest convolution, each for all of its kind.
    """
    with torch.device("meta"):
        layers = layers_of(build(), (1, *shape[1:]))
    total = sum(layer.flop for layer in layers)
    if total <= _PROBE_FLOP:
        slices = min(shape[0], int(_PROBE_FLOP / max(total, 1.0)))
        return {"network": Timed(build(), torch.rand(slices, *shape[1:]), 1.0)}
    pieces = {}
    kinds: dict[str, tuple[type[nn.Module], ...]] = {"product": (nn.Linear,), "convolution": _CONVOLUTIONS}
    for name, kind in kinds.items():
        own = [layer for layer in layers if isinstance(layer.module, kind)]
        if own:
            largest = max(own, key=lambda layer: layer.flop)
            images = _cut(largest, shape[0])
            share = images.numel() / torch.Size(largest.shape).numel()
            pieces[name] = Timed(largest.module, images, sum(layer.flop for layer in own) / (largest.flop * share))
    return pieces


def _cut(layer: Layer, slices: int) -> Tensor:
    """An input of a layer for a step of so many slices, of as many rows (images for a convolution) as may be timed."""
    rows = [layer.shape[0]] if isinstance(layer.module, _CONVOLUTIONS) else list(layer.shape[:-1])
    count = torch.Size(rows).numel()
    fits = max(1, int(_PROBE_FLOP / layer.flop * count))
    return torch.rand(min(count * slices, fits), *layer.shape[len(rows) :])


def _timed(piece: Timed, *, training: bool) -> dict[str, float]:
    """The least seconds of several runs in each type, by turns; the first one is seldom it."""
    runs = {name: _run(piece, dtype, training=training) for name, dtype in _TYPES.items()}
    best = dict.fromkeys(runs, float("inf"))
    started = time.perf_counter()
    for _ in range(_REPEATS):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - begun)
        if time.perf_counter() - started > _PROBE_SECONDS:
            break
    return best


def _run(piece: Timed, dtype: torch.dtype, *, training: bool) -> Callable[[], None]:
    device, module = torch.device("cpu"), copy.deepcopy(piece.module)
    if any(value.is_meta for value in module.parameters()):
        # A layer that was only traced: its shape is real, its weights may be anything.
        module = module.to_empty(device=device)
        for value in module.parameters():
            nn.init.normal_(value.data, std=0.02)
    module = module.to(device) if training else prepared(module, device, dtype)
    return partial(_step, module.eval(), piece.images, Arithmetic(dtype).autocast(device), training)


def _step(module: nn.Module, images: Tensor, context: torch.autocast, training: bool) -> None:
    with torch.set_grad_enabled(training):
        given = images.clone().requires_grad_(training)
        with context:
            output = module(given)
        if training:
            output.float().sum().backward()
