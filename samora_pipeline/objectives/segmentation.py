"""Cross-entropy and Dice of the labelled stage (SAMora, Eq. 9), exact over ranks and over the parts of a batch.

Both terms are ratios of sums over all pixels of the global batch, so the sums are added over ranks and parts before the
division.

At input size the probabilities of a batch are hundreds of times larger than a network's logits; built from single
tensor operations the loss then moves more memory than the network itself. In ``class_sums`` a sample is finished before
the next one is touched, so that it stays in the processor's cache, and nothing but the probabilities is kept for the
gradient, which is written out.

Shapes: B batch (this rank's part), K output maps (classes with background first, or regions), h w pixels of the logits,
V label values.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.distributed import sum_over_ranks
from samora_pipeline.objectives.features import at_least_single
from samora_pipeline.transfers import to_device

IGNORED = -1


def class_sums(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over all pixels of a batch that are not ignored (target -1), with p the softmax over classes.

    Args:
        logits: (B,K,h,w), float32 or float64.
        target: (B,h,w) int64, class indices or -1.

    Returns:
        Cross-entropy, a scalar; p of the pixels of each class, (K,); squared p per class, (K,).
    """
    sums: Tensor = _ClassSums.apply(logits, target)
    classes = logits.shape[1]
    return sums[0], sums[1 : 1 + classes], sums[1 + classes :]


class _ClassSums(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, logits: Tensor, target: Tensor) -> Tensor:
        classes = logits.shape[1]
        probability = torch.empty_like(logits)
        sums = logits.new_zeros(1 + 2 * classes)
        overlap, squares = sums[1 : 1 + classes], sums[1 + classes :]
        for sample, labels, p in zip(logits, target, probability, strict=True):
            valid, safe = labels != IGNORED, labels.clamp(min=0)
            torch.softmax(sample, 0, out=p)
            own = p.gather(0, safe[None])[0] * valid
            entropy = sample.logsumexp(0) - sample.gather(0, safe[None])[0]
            sums[0] += (entropy * valid).sum()
            overlap.index_add_(0, safe.flatten(), own.flatten())
            squares += (p * valid).square().sum((1, 2))
        context.save_for_backward(probability, target)
        return sums

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        probability, target = context.saved_tensors
        classes = probability.shape[1]
        entropy, overlap, squares = gradients[0].tensor_split((1, 1 + classes))
        result = torch.empty_like(probability)
        for p, labels, out in zip(probability, target, result, strict=True):
            safe = labels.clamp(min=0)
            # The softmax's own derivative takes d loss / dp to d loss / d logits; cross-entropy adds p minus one-hot.
            slope = p * (2 * squares).view(-1, 1, 1)
            slope.scatter_add_(0, safe[None], overlap[safe][None])
            slope.sub_((p * slope).sum(0)).add_(entropy).mul_(p)
            slope.scatter_add_(0, safe[None], -entropy.expand_as(safe)[None])
            torch.mul(slope, labels != IGNORED, out=out)
        return result, None


_SMOOTH = 1e-5
_LAST_AT_START = 0.6
_DECAY = 0.99
_DECAY_EPOCHS = 300


class SegmentationTerms(NamedTuple):
    """The weighted loss and its two parts, scalars in float32 or float64; only ``loss`` is to be differentiated."""

    loss: Tensor
    cross_entropy: Tensor
    dice: Tensor


def segmentation_loss(
    logits: Tensor, target: Tensor, *, cross_entropy: float, dice: float, regions: Tensor | None = None
) -> SegmentationTerms:
    """Return ``cross_entropy`` x CE + ``dice`` x Dice for the global batch (Eq. 9 has 0.2 and 0.8).

    CE is unweighted, the mean over all pixels. Dice is that of SAMed's code: background is a class like the others,
    sums run over the whole batch per class, the denominator is squared, and the classes are averaged. Ignored pixels
    (target -1) count in neither; a batch of nothing else has loss 0. With regions, each map is a sigmoid of its own:
    binary CE, the mean over pixels and regions, and Dice per region.

    Args:
        logits: (B,K,h,w).
        target: (B,h,w) int64, class indices; with ``regions`` the label values.
        cross_entropy: weight of the first term.
        dice: weight of the second term.
        regions: (K,V) bool, true where a label value belongs to a region (``LabelScheme.region_masks``).

    Raises:
        ValueError: target and logits differ in size (``low_resolution`` makes them equal).
    """
    if logits.shape[0] != target.shape[0] or logits.shape[2:] != target.shape[1:]:
        raise ValueError(f"a target of shape {tuple(target.shape)} does not fit logits {tuple(logits.shape)}")
    logits = at_least_single(logits)
    sums = _class_terms(logits, target) if regions is None else _region_terms(logits, target, regions)
    # One vector, so that ranks exchange one message.
    return terms_of_sums(sum_over_ranks(sums), cross_entropy=cross_entropy, dice=dice)


def terms_of_sums(total: Tensor, *, cross_entropy: float, dice: float) -> SegmentationTerms:
    """The loss from sums over the global batch: entropy, its number of terms, and p g, p p and g g per map (2+3K,)."""
    entropy = total[0] / total[1].clamp(min=1)
    overlap, squares, squares_truth = total[2:].chunk(3)
    overlaps = 1 - (2 * overlap + _SMOOTH) / (squares + squares_truth + _SMOOTH)
    score = overlaps.mean()
    return SegmentationTerms(cross_entropy * entropy + dice * score, entropy.detach(), score.detach())


def stage_weights(stages: int, epoch: int, epochs: int) -> tuple[float, ...]:
    """Weights of the losses of a decoder's stages, from first to last.

    H-SAM's code gives the last of two stages 0.6 ** (0.99 ** epoch) and the first the rest: 0.4 at first, 0.025 at the
    end of its 300 epochs. Here the 300 epochs stand for the whole run, whatever its length, so that a run of
    30 epochs decays as far (SAMora, appendix A.1: "from 0.4 to 0 over 300 epochs", and Table 8 trains for 30).

    Args:
        stages: how many logits the decoder gives.
        epoch: under way, from 0.
        epochs: of the run.

    Raises:
        ValueError: more than two stages, for which no weights are known.
    """
    if stages == 1:
        return (1.0,)
    if stages != 2:
        raise ValueError(f"no weights are known for {stages} stages")
    last: float = _LAST_AT_START ** (_DECAY ** (_DECAY_EPOCHS * epoch / epochs))
    return (1 - last, last)


def low_resolution(target: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a target (B,H,W) to ``size`` by nearest neighbour between pixel centres, without interpolating values."""
    rows, columns = (
        ((torch.arange(new, device=target.device) + 0.5) * old / new).long()
        for new, old in zip(size, target.shape[1:], strict=True)
    )
    return target[:, rows[:, None], columns]


def _class_terms(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, its number of terms, and the sums over pixels of p g, p p and g g per class: (2+3K,)."""
    if logits.device.type != "cpu":
        return _class_terms_at_once(logits, target)
    entropy, overlap, squares = class_sums(logits, target)
    pixels = target[target != IGNORED].bincount(minlength=logits.shape[1]).to(logits.dtype)
    return torch.cat((entropy[None], pixels.sum()[None], overlap, squares, pixels))


def _class_terms_at_once(logits: Tensor, target: Tensor) -> Tensor:
    """The same by operations on the whole batch: for a GPU, which has room, and loses time by every launch.

    No sum is taken by adding into places, which a GPU does in an order of its own, and no class is counted, for which
    the host would wait.
    """
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    truth = (target[:, None] == classes).to(logits.dtype)
    logarithm = logits.log_softmax(1)
    probability = logarithm.exp()
    axes = (0, 2, 3)
    entropy, pixels = -(logarithm * truth).sum(), truth.sum(axes)
    squares = (probability.square() * (target != IGNORED)[:, None]).sum(axes)
    return torch.cat((entropy[None], pixels.sum()[None], (probability * truth).sum(axes), squares, pixels))


def _region_terms(logits: Tensor, target: Tensor, regions: Tensor) -> Tensor:
    """The same sums for regions, each a map of its own."""
    valid = (target != IGNORED)[:, None]
    truth = to_device(regions, target.device)[:, target.clamp(min=0)].movedim(0, 1).to(logits.dtype) * valid
    probability = logits.sigmoid() * valid
    entropies = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * valid
    head = torch.stack((entropies.sum(), valid.sum() * float(logits.shape[1])))
    products = (probability * truth, probability.square(), truth.square())
    return torch.cat((head, *(product.sum((0, 2, 3)) for product in products)))
