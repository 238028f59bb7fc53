"""A batch that a process works on part by part, while losses and draws see all of it.

Gradient caching (Gao et al. 2021, arXiv 2101.06983) by the convention of ``samora_pipeline.distributed``, in which a
part is what a rank is: losses couple samples by sums and gathered rows alone. A first pass without gradient notes what
each part but the first adds to them. In the second pass, which begins with the first part, the same calls, in the same
order, give what all parts add together, and only this part's addend has a gradient. So every part sees the loss of the
whole batch, the gradients of the parts add up to that of the uncut batch, and what is held for them is one part's.

Random numbers belong to samples, too: a draw for some rows of a batch is made for all of them.

Shapes: B samples of this part on this rank, any further axes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """The samples of one rank in one part of a batch.

    ``number`` of the part, from 0; ``rows``: their places in the global batch, which has ``total`` samples, ``size`` of
    them in this part on all ranks. ``seed`` is that of the step.
    """

    number: int
    rows: range
    size: int
    total: int
    seed: int

    @property
    def share(self) -> float:
        """Of the batch."""
        return self.size / self.total


class WholeBatch:
    """What the ``count`` parts of one batch add to the sums and the rows that a loss asks for.

    Until it ``is_complete`` what is added is noted; from then on it is handed out, and only what the first part adds,
    which has not been seen before, is still noted. Statistics that a network takes of its batch decide what it adds,
    so where there are some the parts are seen twice before.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._added: list[list[Tensor]] = [[] for _ in range(count)]
        self._places: list[list[int]] = [[] for _ in range(count)]
        self._statistics: list[list[Tensor]] = [[] for _ in range(count)]
        self._calls = self._asked = 0
        self._part: Part | None = None
        self._generators: dict[torch.device, torch.Generator] = {}
        self._statistics_are_known = count == 1
        self.is_complete = False

    @contextmanager
    def at(self, part: Part) -> Iterator[None]:
        """Within the context this process works on one part of the batch."""
        global _current
        self._part, self._calls, self._asked, self._generators = part, 0, 0, {}
        before, _current = _current, self
        try:
            yield
        finally:
            _current = before

    def end_pass(self) -> None:
        """Every part has been seen: hand out their statistics, and once these were known, all that they add."""
        if self._statistics_are_known or not any(self._statistics):
            self.is_complete = True
            return
        self._statistics_are_known = True
        self._added = [[] for _ in range(self._count)]
        self._places = [[] for _ in range(self._count)]

    @property
    def wants_statistics(self) -> bool:
        """Whether the part that has not been seen yet has statistics that the others wait for."""
        return not self._statistics_are_known and any(self._statistics)

    @property
    def knows_own(self) -> bool:
        """Whether what this part adds at its next call was noted before, and with it what all parts add."""
        return self.is_complete and len(self._added[self.number]) > self._calls

    @property
    def number(self) -> int:
        """Of the part that is worked on, from 0; parts that are learned from come in this order."""
        return self._part.number if self._part is not None else 0

    def note(self, added: Tensor, place: int = 0) -> None:
        """Keep what this part adds on all ranks, in the order of the calls; this rank's rows begin at ``place``."""
        self._added[self.number].append(added.detach())
        self._places[self.number].append(place)

    def statistics(self, own: Tensor) -> Tensor:
        """The rows (k,m) of all parts and ranks where they are known, else those of this part, which are noted."""
        if self._count == 1:
            return own
        if not self._statistics_are_known:
            self._statistics[self.number].append(own)
            return own
        rows = torch.cat([noted[self._asked] for noted in self._statistics])
        self._asked += 1
        return rows

    def total(self, value: Tensor) -> Tensor:
        """The sum of what all parts and ranks add; the gradient reaches ``value``, this rank's and part's addend."""
        whole = torch.stack([added[self._calls] for added in self._added]).sum(dim=0)
        self._calls += 1
        return value + (whole - value.detach())

    def rows(self, own: Tensor) -> Tensor:
        """The rows of all parts and ranks; those of this rank and part are ``own``, with their gradient."""
        noted = [added[self._calls] for added in self._added]
        mine, place = noted[self.number], self._places[self.number][self._calls]
        self._calls += 1
        pieces = (*noted[: self.number], mine[:place], own, mine[place + len(own) :], *noted[self.number + 1 :])
        return torch.cat(pieces)

    def drawn(self, like: Tensor) -> tuple[Tensor, torch.Generator, range] | None:
        """Room for a draw of all samples, its generator, and this part's rows; None where ``like`` has other rows."""
        part = self._part
        if part is None or len(like) != len(part.rows):
            return None
        if like.device not in self._generators:
            self._generators[like.device] = torch.Generator(like.device).manual_seed(part.seed)
        packed = like.ndim == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
        order = torch.channels_last if packed else torch.contiguous_format
        room = torch.empty((part.total, *like.shape[1:]), dtype=like.dtype, device=like.device, memory_format=order)
        return room, self._generators[like.device], part.rows


_current: WholeBatch | None = None


def current() -> WholeBatch | None:
    """The batch whose part is worked on, None where all of it is."""
    return _current


def normal_like(like: Tensor) -> Tensor:
    """Normal numbers (B,...) as ``torch.randn_like`` draws them for the whole batch, of which these rows are a part."""
    found = _current.drawn(like) if _current is not None else None
    if found is None:
        return torch.randn_like(like)
    room, generator, rows = found
    return room.normal_(generator=generator)[rows.start : rows.stop]


def dropout(x: Tensor, share: float) -> Tensor:
    """(B,...) with a ``share`` of the entries dropped and the others scaled up, by the draw for the whole batch."""
    found = _current.drawn(x) if _current is not None else None
    if found is None or share == 0:
        return torch.nn.functional.dropout(x, share, training=share > 0)
    room, generator, rows = found
    return x * room.bernoulli_(1 - share, generator=generator).div_(1 - share)[rows.start : rows.stop]
