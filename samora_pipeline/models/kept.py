"""Tensors that are made of frozen ones and kept beside them, instead of being made again in every pass."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Made = TypeVar("Made")


def kept(owner: nn.Module, name: str, sources: Sequence[Tensor], make: Callable[[], Made], *key: Any) -> Made:
    """What ``make`` makes of ``sources``, until one of them is another or has changed, or the ``key`` differs.

    Where a source learns it is made every time, so that its gradient arrives.
    """
    learns = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
    if learns or any(source.is_inference() for source in sources):
        return make()
    # Sources by identity: to compare their numbers takes as long as to make something of them.
    state = [*key, *((id(source), source._version) for source in sources)]
    place: dict[str, Any] = owner.__dict__.setdefault("_kept", {})
    if name not in place or place[name][0] != state:
        # Tensors that were made in inference mode could not take part in a later training.
        with torch.inference_mode(False), torch.no_grad():
            # The sources are held too, or another tensor could be given the identity of one that is gone.
            place[name] = state, list(sources), make()
    made: Made = place[name][2]
    return made
