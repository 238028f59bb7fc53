"""The backward pass, node by node in Python: autograd's engine itself looks for the driver's streams."""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import count
from typing import Any

import torch

from tests.pretend_cuda.tensors import current, is_dense, same_strides

_tasks, _task = count(), [-1]


def task_id() -> int:
    """The number of the backward pass that is under way, -1 where none is."""
    return _task[0]


def tensor_backward(self: torch.Tensor, gradient: Any = None, **options: Any) -> None:
    """``Tensor.backward``."""
    _Pass(None).run([self], [torch.ones_like(self) if gradient is None else gradient])


def autograd_grad(outputs: Any, inputs: Any, grad_outputs: Any = None, **options: Any) -> tuple[Any, ...]:
    """``torch.autograd.grad``."""
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    inputs = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
    grads = [torch.ones_like(t) for t in outputs] if grad_outputs is None else list(grad_outputs)
    return tuple(_Pass(inputs).run(outputs, grads))


class Saved:
    """A tensor that is kept for the backward pass and let go there, as the engine does."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor: torch.Tensor | None = tensor.detach()  # an output would hold its node, and that this

    def take(self) -> torch.Tensor:
        """The tensor, for the last time within a backward pass."""
        tensor = self.tensor
        if tensor is None:
            raise RuntimeError("Trying to backward through the graph a second time")
        if _task[0] >= 0:
            self.tensor = None
        return tensor


class _Pass:
    """One backward pass. ``wanted``: tensors whose gradients are returned (None: those of leaves are stored)."""

    def __init__(self, wanted: Sequence[torch.Tensor] | None) -> None:
        self.wanted = wanted
        self.nodes: dict[int, Any] = {}
        self.needed: Counter[int] = Counter()
        self.arrived: dict[int, dict[int, torch.Tensor]] = {}
        self.found: dict[int, torch.Tensor] = {}
        self.goals: dict[tuple[int, int], int] = {}
        self.ready: list[Any] = []

    def run(self, roots: list[torch.Tensor], grads: list[torch.Tensor]) -> list[Any]:
        edges = [_edge(root) for root in roots]
        for node, _ in edges:
            self._visit(node)
        for number, tensor in enumerate(self.wanted or ()):
            node, place = _edge(tensor)
            self.goals[id(node), place] = number
            self.nodes[id(node)] = node
        for (node, place), grad in zip(edges, grads, strict=True):
            self._give(node, place, grad)
        for key, node in list(self.nodes.items()):
            if not self.needed[key] and key in self.arrived:
                self._push(node)
        self._walk()
        return [self.found.get(number) for number in range(len(self.wanted or ()))]

    def _walk(self) -> None:
        device, before = current(), current().node
        outer, _task[:] = list(_task), [next(_tasks)]
        try:
            with torch.no_grad():
                while self.ready:
                    _, _, node = heapq.heappop(self.ready)
                    device.node = type(node).__name__
                    self._evaluate(node)
        finally:
            _task[:], device.node = outer, before

    def _evaluate(self, node: Any) -> None:
        slots = self.arrived.pop(id(node), {})
        for (key, place), number in self.goals.items():
            if key == id(node) and place in slots:
                self.found[number] = slots[place]
        if _is_leaf(node):
            if self.wanted is None and 0 in slots:
                _accumulate(node.variable, slots)
            return
        results = _call(node, slots)
        # From here on nobody else may hold what a leaf takes over.
        slots.clear()
        for following, place in node.next_functions:
            grad = results.pop(0) if results else None
            if following is None:
                continue
            if grad is not None:
                self._give(following, place, grad)
            self.needed[id(following)] -= 1
            if not self.needed[id(following)]:
                self._push(following)
            del grad

    def _visit(self, root: Any) -> None:
        stack = [root]
        while stack:
            node = stack.pop()
            if id(node) in self.nodes:
                continue
            self.nodes[id(node)] = node
            for following, _ in node.next_functions:
                if following is not None:
                    self.needed[id(following)] += 1
                    stack.append(following)

    def _give(self, node: Any, place: int, grad: torch.Tensor) -> None:
        meta = node._input_metadata[place] if hasattr(node, "_input_metadata") else None
        if meta is not None and tuple(grad.shape) != tuple(meta.shape):
            grad = grad.sum_to_size(meta.shape)
        if meta is not None and grad.dtype != meta.dtype:
            grad = grad.to(meta.dtype)
        slots = self.arrived.setdefault(id(node), {})
        slots[place] = slots[place] + grad if place in slots else grad

    def _push(self, node: Any) -> None:
        """As the engine: what was made last comes first, gradients of leaves at once."""
        order = -(2**64) if _is_leaf(node) else -node._sequence_nr()
        heapq.heappush(self.ready, (order, id(node), node))


def _call(node: Any, slots: dict[int, torch.Tensor]) -> list[Any]:
    if not slots:
        return [None] * len(node.next_functions)
    made = getattr(node, "materialize_grads", True)
    inputs = [
        slots.get(place)
        if place in slots or not made
        else torch.zeros(tuple(meta.shape), dtype=meta.dtype, device=meta.device)
        for place, meta in enumerate(node._input_metadata)
    ]
    results = node.apply(*inputs) if hasattr(node, "_forward_cls") else node(*inputs)
    return list(results) if isinstance(results, tuple) else [results]


def _accumulate(leaf: torch.Tensor, slots: dict[int, torch.Tensor]) -> None:
    """A leaf's gradient: added in place, taken over where nobody else holds it and it lies as the leaf, else copied."""
    grad = slots.pop(0)
    dense = is_dense(leaf)
    if leaf.grad is not None:
        leaf.grad.add_(grad)
    elif sys.getrefcount(grad) <= _ALONE and (same_strides(grad, leaf.stride()) if dense else grad.is_contiguous()):
        leaf.grad = grad.detach()
    elif dense:
        leaf.grad = torch.empty_strided(grad.shape, leaf.stride(), dtype=grad.dtype, device=grad.device).copy_(grad)
    else:
        leaf.grad = grad.clone(memory_format=torch.contiguous_format)


def _references() -> int:
    only = object()
    return sys.getrefcount(only)


_ALONE = _references()
"""what is counted for an object that one name has"""


def _is_leaf(node: Any) -> bool:
    return type(node).__name__ == "AccumulateGrad"


def _leaf(tensor: torch.Tensor) -> Any:
    return tensor.view_as(tensor).grad_fn.next_functions[0][0]  # type: ignore[union-attr]


def _edge(tensor: torch.Tensor) -> tuple[Any, int]:
    return (_leaf(tensor), 0) if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)
