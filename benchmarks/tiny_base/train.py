"""Train the packaged base weights of ``samora_tiny``: promptable segmentation of random shapes, as SAM itself.

One point is shown, the decoder answers with several masks, and the best of them is pulled towards the shape under the
point (SAM's training in miniature). Run once per release; the weights, their digest and their model card are in
``samora_pipeline/weights``:

    python -m benchmarks.tiny_base.train --output samora_pipeline/weights/samora_tiny.safetensors
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.tiny_base.random_shapes import draw_picture
from samora_pipeline.files import atomic_path, digest_file
from samora_pipeline.models.backbones.sam import SAMORA_TINY
from samora_pipeline.reproducibility import derived_seed, seed_everything

LOG = logging.getLogger(__name__)
NUM_MASKS = 4
SMALLEST_SHAPE = 12
"""pixels; smaller visible parts are never asked for"""


class PromptableModel(nn.Module):
    """Image encoder, prompt encoder and mask decoder, called with many points per picture."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.image_encoder = SAMORA_TINY.build_encoder(size)
        self.prompt_encoder = SAMORA_TINY.build_prompt_encoder(size)
        self.mask_decoder = SAMORA_TINY.build_mask_decoder(NUM_MASKS)

    def forward(self, images: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B,3,N,N) and one set of points (B,P,2; x, y in pixels) to mask logits (B*P,M,n,n) and IoU (B*P,M)."""
        per_image = points.shape[1]
        flat = points.flatten(0, 1)[:, None]
        sparse, dense = self.prompt_encoder((flat, torch.ones(flat.shape[:2], dtype=torch.int)), None, None)
        embedding = self.image_encoder(images).embedding.repeat_interleave(per_image, 0) + dense
        position = self.prompt_encoder.get_dense_pe().expand(len(flat), -1, -1, -1)
        decoder = self.mask_decoder
        output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([output.expand(len(flat), -1, -1), sparse], 1)
        answers, source = decoder.transformer(embedding, position, tokens)
        upscaled = decoder.output_upscaling(source.transpose(1, 2).view_as(embedding))
        weights = [mlp(answers[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]
        masks = torch.einsum("bmc,bchw->bmhw", torch.stack(weights, 1), upscaled)
        return masks, decoder.iou_prediction_head(answers[:, 0])


def promptable_loss(logits: Tensor, iou: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus Dice of the best of M masks (B,M,n,n against soft B,n,n), plus the error of the IoU guess."""
    wanted = target[:, None].expand_as(logits)
    probability = logits.sigmoid()
    overlap = (probability * wanted).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (probability.sum((2, 3)) + wanted.sum((2, 3)) + 1)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean((2, 3))
    with torch.no_grad():
        hard, truth = logits > 0, wanted > 0.5
        true_iou = ((hard & truth).sum((2, 3)) / (hard | truth).sum((2, 3)).clamp(min=1)).float()
    best = (cross_entropy * 2 + dice).min(1).values
    return best.mean() + 0.1 * functional.mse_loss(iou, true_iou)


class PictureBatches:
    """Batches from a fixed set of pictures, each turned, mirrored and gamma-changed anew."""

    def __init__(self, count: int, size: int, seed: int) -> None:
        pictures = [draw_picture(np.random.default_rng(derived_seed(seed, "picture", i)), size) for i in range(count)]
        self._images = torch.from_numpy(np.stack([picture.image for picture in pictures]))
        self._regions = torch.from_numpy(np.stack([picture.regions for picture in pictures]))
        self._seed = seed

    def draw(self, step: int, batch: int, points: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return images (B,3,N,N), points (B,P,2) and soft masks at a quarter of the size (B*P,N/4,N/4)."""
        rng = np.random.default_rng(derived_seed(self._seed, "step", step))
        images, chosen, masks = [], [], []
        for index in rng.integers(0, len(self._images), batch):
            turns, mirror, gamma = int(rng.integers(4)), bool(rng.integers(2)), float(rng.uniform(0.7, 1.5))
            image, regions = (torch.rot90(array[index], turns) for array in (self._images, self._regions))
            if mirror:
                image, regions = image.flip(0), regions.flip(0)
            images.append(image**gamma)
            for row, column in _points(rng, regions.numpy(), points):
                chosen.append((float(column), float(row)))
                masks.append((regions == regions[row, column]).float())
        target = functional.avg_pool2d(torch.stack(masks)[:, None], 4)[:, 0]
        stacked = torch.stack(images)[:, None].expand(-1, 3, -1, -1)
        return stacked, torch.tensor(chosen).view(batch, points, 2), target


def _points(rng: np.random.Generator, regions: npt.NDArray[np.uint8], count: int) -> list[tuple[int, int]]:
    sizes = np.bincount(regions.ravel())
    candidates = np.flatnonzero(sizes >= SMALLEST_SHAPE)
    picked = []
    for number in rng.choice(candidates, count):
        rows, columns = np.nonzero(regions == number)
        place = rng.integers(len(rows))
        picked.append((int(rows[place]), int(columns[place])))
    return picked


def train(
    steps: int, *, pictures: int, batch: int = 16, points: int = 6, rate: float = 1e-3, seed: int = 0
) -> PromptableModel:
    """Train with AdamW, a linear warm-up over 5 % of the steps and a cosine decay to zero."""
    seed_everything(seed)
    size = SAMORA_TINY.native_size
    model = PromptableModel(size)
    batches = PictureBatches(pictures, size, seed)
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.02)
    started, smooth = time.monotonic(), None
    for step in range(steps):
        share = (step + 1) / (0.05 * steps)
        rate_now = rate * (share if share < 1 else 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate_now
        images, prompts, target = batches.draw(step, batch, points)
        logits, iou = model(images, prompts)
        loss: Tensor = promptable_loss(logits, iou, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 100 == 99:
            LOG.info("step %d of %d  loss %.4f  %.0f s", step + 1, steps, smooth, time.monotonic() - started)
    return model


def save_base(model: PromptableModel, path: Path) -> str:
    """Write the weights in half precision under the names of SAM's public files; return the file's digest."""
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary)
    return digest_file(path)


def main() -> None:
    """Train and save; the defaults are those of the packaged file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = train(arguments.steps, pictures=arguments.pictures, seed=arguments.seed)
    LOG.info("%s  sha256 %s", arguments.output, save_base(model, arguments.output))


if __name__ == "__main__":
    main()
