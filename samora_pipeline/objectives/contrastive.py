"""NT-Xent, the contrastive loss of SimCLR and SimCLRv2, over the views of all ranks and of all parts of a batch.

Shapes: B images on this rank and in this part, N images of the global batch, D width of an embedding.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.distributed import gather_rows
from samora_pipeline.objectives.features import at_least_single


class ContrastiveTerms(NamedTuple):
    """The loss, and as a monitor the share of anchors whose partner is the nearest of the 2N - 1 candidates.

    Chance is log(2N - 1) for the loss and 1 / (2N - 1) for the accuracy; a plateau there means nothing is learned.
    """

    loss: Tensor
    accuracy: Tensor


def nt_xent(first: Tensor, second: Tensor, *, temperature: float = 0.1) -> ContrastiveTerms:
    """Return the mean over all 2N views of -log softmax(cosine / temperature) at the view's partner.

    This is the loss of SimCLR (arXiv 2002.05709, Eq. 1); SimCLRv2's code sums the two views' means, which is twice as
    much. Every other view of the global batch is a negative. Computed in float32 at least, because bfloat16 misses a
    logit at temperature 0.1 by several hundredths.

    Args:
        first: (B,D), embeddings of the first views; normalised here. B may differ between ranks and parts.
        second: (B,D), embeddings of the second views of the same images.
        temperature: divides the cosines. SimCLR's authors advise 0.2 for small batches.
    """
    pairs = torch.cat([functional.normalize(at_least_single(views), dim=1) for views in (first, second)], dim=1)
    views = torch.cat(gather_rows(pairs).chunk(2, dim=1))
    count = views.shape[0]
    with torch.autocast(views.device.type, enabled=False):
        logits = views @ views.T / temperature
    itself = torch.eye(count, dtype=torch.bool, device=views.device)
    logits = logits.masked_fill(itself, float("-inf"))
    partner = torch.arange(count, device=views.device).roll(count // 2)
    hits = logits.detach().argmax(dim=1) == partner
    return ContrastiveTerms(functional.cross_entropy(logits, partner), hits.float().mean())
