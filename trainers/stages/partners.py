"""Slices without labels beside labelled ones: which, and moved how, depends on names and epoch alone."""

from collections.abc import Sequence

from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.slices.views import draw_uniform


def draw_partners(
    keys: Sequence[str], unlabelled: UnlabelledSource, purpose: str, *, seed: int, epoch: int
) -> tuple[list[int], list[str]]:
    """One slice without labels for each labelled one: their numbers, and names for further draws about each pair.

    ``keys`` are names of labelled slices, ``purpose`` one of the draw.
    """
    place = draw_uniform(keys, 1, purpose, seed=seed, epoch=epoch)[:, 0].double() * len(unlabelled)
    partners = place.long().clamp(max=len(unlabelled) - 1).tolist()
    return partners, [f"{own} {other}" for own, other in zip(keys, unlabelled.keys(partners), strict=True)]
