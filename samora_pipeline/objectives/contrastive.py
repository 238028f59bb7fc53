"""NT-Xent, the contrastive loss of SimCLR and SimCLRv2, over the views of all ranks.

Shapes: B images on this rank, N images on all ranks, D width of an embedding.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.distributed import gather_over_ranks, world_size


class ContrastiveTerms(NamedTuple):
    """The loss, and as a monitor the share of anchors whose partner is the nearest of the 2N - 1 candidates.

    Chance is log(2N - 1) for the loss and 1 / (2N - 1) for the accuracy; a plateau there means nothing is learned.
    """

    loss: Tensor
    accuracy: Tensor


def nt_xent(first: Tensor, second: Tensor, *, temperature: float = 0.1) -> ContrastiveTerms:
    """Return the mean over all 2N views of -log softmax(cosine / temperature) at the view's partner.

    This is the loss of SimCLR (arXiv 2002.05709, Eq. 1); SimCLRv2's code sums the two views' means, which is twice as
    much. Every other view of the global batch is a negative. Computed in float32, because bfloat16 misses a logit at
    temperature 0.1 by several hundredths.

    Args:
        first: (B,D), embeddings of the first views; normalised here. B may differ between ranks.
        second: (B,D), embeddings of the second views of the same images.
        temperature: divides the cosines. SimCLR's authors advise 0.2 for small batches.
    """
    pairs = torch.cat((functional.normalize(first.float(), dim=1), functional.normalize(second.float(), dim=1)), dim=1)
    views = torch.cat(_gather_uneven(pairs).chunk(2, dim=1))
    count = views.shape[0]
    with torch.autocast(views.device.type, enabled=False):
        logits = views @ views.T / temperature
    itself = torch.eye(count, dtype=torch.bool, device=views.device)
    logits = logits.masked_fill(itself, float("-inf"))
    partner = torch.arange(count, device=views.device).roll(count // 2)
    hits = logits.detach().argmax(dim=1) == partner
    return ContrastiveTerms(functional.cross_entropy(logits, partner), hits.float().mean())


def _gather_uneven(rows: Tensor) -> Tensor:
    """Gather rows in rank order although ranks hold different numbers of them: pad, gather, drop the padding."""
    if world_size() == 1:
        return rows
    counts = gather_over_ranks(torch.tensor([len(rows)], device=rows.device))
    longest = int(counts.max())
    padded = functional.pad(rows, (0, 0, 0, longest - len(rows)))
    numbers = torch.arange(longest, device=rows.device).expand(world_size(), -1)
    return gather_over_ranks(padded)[(numbers < counts[:, None]).flatten()]
