"""Print how large the tokens of a trained network become from block to block, and how much of that tells places apart.

    python benchmarks/token_growth.py RESULTS/DATASET/RUN/fold_0 ... --root ROOT [--slices 32]

The slices are labelled ones of the run, spread over its scans. Per block: the standard deviation of all numbers, and of
what is left of them when the mean of each channel over a slice is taken off (``within``). A fusion that runs away adds
one large offset to every token: the first number grows and the second does not, until the norm in front of the decoder
leaves nothing to see. Below them stand the spread of the embedding, within a slice and between slices, and the largest
logit of the background.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from samora_pipeline.inference.loading import LoadedFold, load_folds
from samora_pipeline.models.expert_block import expert_blocks
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.paths import resolve_roots
from samora_pipeline.slices.datasets import SliceSource, labelled_ids


def spread(tokens: Tensor) -> tuple[float, float]:
    """Standard deviation of tokens (B,H,W,D), and of their distance from each slice's mean token."""
    return float(tokens.std()), float((tokens - tokens.mean((1, 2), keepdim=True)).std())


def labelled_slices(fold: LoadedFold, preprocessed: Path, count: int) -> Tensor:
    """Images (B,C,N,N) of labelled slices of the run."""
    config = fold.config
    folder = preprocessed / config.dataset / "slices"
    source = SliceSource(
        folder, labelled_ids(config.selection, folder), config.plans, config.model.input_size, config.labels
    )
    chosen = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)
    return source.images(chosen.tolist())


def report(folder: Path, preprocessed: Path, weights: Path, count: int) -> None:
    """Print the table of one fold."""
    (fold,) = load_folds([folder], weights)
    network = fold.network.eval()
    if not isinstance(network, SegmentationNetwork):
        raise SystemExit(f"{folder} holds a network without an image encoder")
    seen: list[Tensor] = []
    for block in expert_blocks(network.image_encoder).values():
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = labelled_slices(fold, preprocessed, count)
    with torch.inference_mode():
        logits = network(images)
        blocks = [spread(tokens) for tokens in seen]
        embedding = network.embed(images).embedding.permute(0, 2, 3, 1)
    print(f"{folder.parent.name}, {len(images)} slices")
    print("  block   " + " ".join(f"{number:>6}" for number in range(1, len(blocks) + 1)))
    for row, name in enumerate(("all", "within")):
        print(f"  {name:8}" + " ".join(f"{block[row]:6.2f}" for block in blocks))
    between = float(embedding.mean((1, 2)).std(0).mean())
    print(f"  embedding: within a slice {spread(embedding)[1]:.3f}, between slices {between:.4f}")
    print(f"  logit of the background: at most {float(logits[:, 0].max()):.1f}")


def main(argv: list[str] | None = None) -> None:
    """Print one table for each fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folds", nargs="+", type=Path)
    parser.add_argument("--root", help="as in samora_train")
    parser.add_argument("--slices", type=int, default=32)
    arguments = parser.parse_args(argv)
    roots = resolve_roots(arguments.root)
    for folder in arguments.folds:
        report(folder, roots.preprocessed, roots.weights, arguments.slices)


if __name__ == "__main__":
    main()
