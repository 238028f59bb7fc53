"""Loss and gradients of a global batch that is worked on part by part, as exact as if it were never cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from samora_pipeline import distributed
from samora_pipeline.batch_parts import Part, WholeBatch
from samora_pipeline.reproducibility import derived_seed
from samora_pipeline.run_log import Line, logger
from trainers.loop.loading import Batch, on_device
from trainers.loop.memory import FEWEST, peak_memory

if TYPE_CHECKING:
    from trainers.loop.loop import LoopContext, Training


class Accumulation:
    """Cuts batches into parts and sums their gradients; the parts shrink where memory runs out.

    Args:
        training: what is trained.
        where: the device, and the seed on which the draws of a step depend.
        restore: gives the buffers back what they had before the step; a first pass must not move running statistics.
    """

    def __init__(self, training: Training, where: LoopContext, restore: Callable[[], None]) -> None:
        self._training, self._where, self._restore = training, where, restore
        self._micro_batch, self._recompute = training.micro_batch, training.recompute

    def parts(self, batch: list[int], step: int) -> list[Part]:
        """Cut the global batch of a step into parts, as equal as can be, with this rank's samples in each."""
        size, total = distributed.world_size(), len(batch)
        largest = self._training.norm_batch or (self._micro_batch or total) * size
        count = max(1, min(math.ceil(total / largest), total // size))
        bounds = [range(total * number // count, total * (number + 1) // count) for number in range(count)]
        # Only torch's generator: what is drawn while loading is seeded by sample, wherever it is loaded.
        seed = derived_seed(self._where.seed, self._training.stage, step)
        return [Part(number, distributed.own_share(rows), len(rows), total, seed) for number, rows in enumerate(bounds)]

    def gradients(self, parts: list[Part], loaded: Iterator[Batch], epoch: int) -> dict[str, float]:
        """Loss, metrics and gradient norm of a batch, whose gradients are left in the parameters.

        Args:
            parts: of the batch.
            loaded: this rank's samples of each part, in order.
            epoch: under way, from 0.
        """
        whole = WholeBatch(len(parts))
        self._training.optimizer.zero_grad(set_to_none=True)
        if self._training.coupled and len(parts) > 1:
            batches = list(islice(loaded, len(parts)))
            self._look(parts, batches, whole, epoch)
            loaded = iter(batches)
        names: tuple[str, ...] = ()
        totals: Tensor | float = 0.0
        for part in parts:
            with self._weights():
                loss, metrics = self._loss(part, next(loaded), whole, epoch)
                # A loss that has seen the whole batch is not a part's: its gradients add up by themselves.
                self._learn(loss if whole.is_complete else loss * part.share)
            names = ("loss", *metrics)
            values = torch.stack([value.detach().float() for value in (loss, *metrics.values())])
            totals = totals + values * part.share
        # The host waits here, once in a step: whether a step counts has to be known before the update.
        read = torch.cat((torch.as_tensor(totals), self._gradient_norm()[None])).tolist()
        return dict(zip((*names, "gradient_norm"), read, strict=True))

    def _weights(self) -> AbstractContextManager[None]:
        return self._training.weights.used(self._where.device, self._where.arithmetic.dtype)

    def _learn(self, loss: Tensor) -> None:
        """Add the gradients of a part to those of the parts before."""
        parameters = [parameter for parameter in self._training.parameters.values() if parameter.requires_grad]
        if all(parameter.grad is None for parameter in parameters):
            loss.backward()  # type: ignore[no-untyped-call]
            return
        sums: list[Tensor] = []
        added: list[Tensor] = []
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient
            elif gradient is not None and gradient.stride() == parameter.grad.stride():
                sums.append(parameter.grad)
                added.append(gradient)
            elif gradient is not None:  # a single one that lies otherwise would keep all from being added together
                parameter.grad.add_(gradient)
        # Together: autograd would add them parameter by parameter.
        if sums:
            torch._foreach_add_(sums, added)

    def shrink(self, parts: list[Part]) -> bool:
        """Halve the parts, or keep less of each, from now on; False where neither can be done."""
        largest = max(len(part.rows) for part in parts)
        is_fixed = self._training.norm_batch is not None
        if self._recompute is not None and (is_fixed or largest <= FEWEST):
            self._recompute()
            self._recompute, what = None, "activations are computed again instead of being kept"
        elif largest > 1 and not is_fixed:
            self._micro_batch = largest // 2
            what = f"{self._micro_batch} slices at a time instead of {largest}"
        else:
            return False
        held = f"{peak_memory(self._where.device) / 2**30:.1f} GiB held"
        logger.warning("%s: memory ran out (%s); the step is repeated with %s", self._training.stage, held, what)
        return True

    def let_go(self) -> None:
        """Forget what a step that ran out of memory has left."""
        self._training.optimizer.zero_grad(set_to_none=True)
        self._restore()
        if self._where.device.type == "cuda":
            torch.cuda.empty_cache()

    def record(self, batch: list[int]) -> Line:
        """How a batch is cut now: slices of this rank at a time, and whether activations are computed again."""
        first = self.parts(batch, 0)[0]
        was_switched_on = self._recompute is None and self._training.recompute is not None
        return {"micro_batch": len(first.rows), "recomputed": was_switched_on or self._training.recomputes}

    @torch.no_grad()
    def _look(self, parts: list[Part], batches: list[Batch], whole: WholeBatch, epoch: int) -> None:
        """See the parts without learning from them, until it is known what they add to the first one.

        The first is seen by learning from it, unless its statistics decide what the others add.
        """
        while not whole.is_complete:
            with self._weights():
                for part, batch in zip(parts[1:], batches[1:], strict=True):
                    self._loss(part, batch, whole, epoch)
                if whole.wants_statistics:
                    self._loss(parts[0], batches[0], whole, epoch)
            whole.end_pass()
        self._restore()

    def _loss(self, part: Part, batch: Batch, whole: WholeBatch, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one part, by the same random numbers whenever it is asked for."""
        torch.manual_seed(derived_seed(part.seed, part.number) if part.number else part.seed)
        is_all = len(part.rows) == part.total
        device = self._where.device
        with nullcontext() if is_all else whole.at(part), self._where.arithmetic.autocast(device):
            return self._training.loss(on_device(batch, device), epoch)

    def _gradient_norm(self) -> Tensor:
        parameters = [parameter for parameter in self._training.parameters.values() if parameter.grad is not None]
        distributed.sum_gradients(parameters)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self._training.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._training.clip_norm, norm)
        return norm
