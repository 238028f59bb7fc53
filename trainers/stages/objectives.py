"""The objectives of stage 1 without a teacher: masked modelling, contrast of two views, denoising (section 3.2)."""

import math
from abc import abstractmethod
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.distributed import sum_over_ranks
from samora_pipeline.evaluation.representations import (
    LARGEST_PSNR,
    RestorationScores,
    alignment,
    effective_rank,
    restoration_scores,
    spread,
    uniformity,
)
from samora_pipeline.models.pretraining_heads import ContrastiveHead, DenoisingDecoder, PatchDecoder, tap_blocks
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.objectives.contrastive import nt_xent
from samora_pipeline.objectives.features import images_from, masked_reconstruction, mean_squared_error, soft_dice
from samora_pipeline.slices.noise import make_noise, rician_channels
from samora_pipeline.slices.views import apply_views, draw_token_masks
from trainers.loop.loading import Batch
from trainers.loop.pretraining import Examination, Network, Objective
from trainers.settings import (
    ContrastiveSettings,
    DenoisingSettings,
    ImageTeacherSettings,
    MaskingSettings,
)
from trainers.stages.stage import full_precision


class Prediction(NamedTuple):
    """``patches`` (B,g,g,P*P*C) for ``images`` (B,C,N,N), and one feature vector (B,D) per slice."""

    patches: Tensor
    images: Tensor
    features: Tensor


class MaskedObjective(Objective[Network, MaskingSettings]):
    """Hidden patches are reconstructed from the visible ones; what sees them and how is the subclass's affair.

    ``_grid``, which ``make_head`` settles, is the side of the grid of hidden patches.
    """

    _grid: int

    @abstractmethod
    def predict(self, network: Network, images: Tensor, mask: Tensor) -> Prediction:
        """The pixels of all patches of images (B,C,N,N) whose patches ``mask`` (B,g,g) are hidden."""

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Images (B,C,N,N), the parameters of their views, and the mask (B,g,g), true where a patch is hidden.

        g is the side of the last block's grid: patches have 16 pixels a side for SAM and 32 for SAM 2, the mask
        units of Hiera (arXiv 2306.00989).
        """
        share, keys = self._settings.masked_share, self._source.keys(indices)
        mask = draw_token_masks(keys, self._grid, share, seed=self._seed, epoch=epoch)
        return {**super().load(indices, epoch), "mask": mask}

    @property
    def coupled(self) -> bool:
        """Only where flat patches are left out: parts then have different numbers of the others."""
        return self._settings.skip_flat

    def loss(self, network: Network, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error over hidden patches."""
        prediction = self.predict(network, view_of(batch), batch["mask"])
        return self._error(prediction, batch["mask"]), {}

    def examine(self, network: Network, batch: Batch) -> Examination:
        """The loss, and where patches are normalised the share that is ``explained`` of what their mean leaves.

        Its mean alone predicts a patch of air exactly, so a pool with much air has a small loss from the start.
        In the picture of the output visible patches are the input's. Where patches are normalised, the output's have
        their brightness and contrast from the original, and only the detail from the network.
        """
        images, mask = view_of(batch), batch["mask"]
        prediction = self.predict(network, images, mask)
        loss = self._error(prediction, mask)
        hidden = functional.interpolate(mask[:, None].float(), images.shape[-2:])
        drawn = images_from(prediction.patches, prediction.images, normalised=self._settings.normalised)
        original, output = (self._shown(value) for value in (prediction.images, drawn))
        hidden = functional.interpolate(hidden, original.shape[-2:])
        output = torch.where(hidden > 0, output, original)
        columns = {
            "original": original,
            "seen": original * (1 - hidden) + 0.5 * hidden,
            "reconstructed": output,
            "error": (output - original).abs(),
        }
        measures = {}
        if self._settings.normalised:
            mean_alone = self._error(prediction._replace(patches=torch.zeros_like(prediction.patches)), mask)
            measures["explained"] = 1 - float(loss / mean_alone.clamp(min=1e-12))
        return Examination(loss, measures, prediction.features, {name: value[:, 0] for name, value in columns.items()})

    def _shown(self, images: Tensor) -> Tensor:
        """Images as the network compares them to (B,1,N,N) in [0,1]."""
        return images.mean(dim=1, keepdim=True).clamp(0, 1)

    def _error(self, prediction: Prediction, mask: Tensor) -> Tensor:
        return masked_reconstruction(
            prediction.patches,
            prediction.images,
            mask,
            normalised=self._settings.normalised,
            skip_flat=self._settings.skip_flat,
        )


def view_of(batch: Batch) -> Tensor:
    """The batch's images under the views that were drawn for them, in full precision."""
    with full_precision(batch["images"]):
        return apply_views(batch["images"], batch["view"])


class PatchObjective(MaskedObjective[SegmentationNetwork]):
    """Masked reconstruction from the last block's tokens (SimMIM form: no token is dropped)."""

    def make_head(self, network: SegmentationNetwork, channels: int) -> nn.Module:
        """See ``Objective.make_head``."""
        encoder, last = network.image_encoder, network.image_encoder.shapes[-1]
        self._grid, patch_size = last.side, network.input_size // last.side
        self.decoder = PatchDecoder(last.width, channels, patch_size, mask_width=encoder.embed_dim)
        return self.decoder

    def predict(self, network: SegmentationNetwork, images: Tensor, mask: Tensor) -> Prediction:
        """See ``MaskedObjective.predict``."""
        encoder = network.image_encoder
        (tokens,) = encoder.forward_tokens(
            network.to_rgb(images), (encoder.depth,), token_mask=mask, mask_token=self.decoder.mask_token
        )
        return Prediction(self.decoder(tokens), images, tokens.mean(dim=(1, 2)))


class ContrastiveObjective(Objective[Network, ContrastiveSettings | ImageTeacherSettings]):
    """NT-Xent on embeddings of two views of each slice; what embeds them is the subclass's affair."""

    @property
    def coupled(self) -> bool:
        """Every other slice is a negative."""
        return True

    @abstractmethod
    def embed(self, network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B,C,N,N) to features (B,D) and embeddings (B,E); the loss normalises the latter."""

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Slices and the parameters of both views."""
        first, second = (self._views_of(indices, epoch, view) for view in (0, 1))
        return {"images": self._source.images(indices), "first": first, "second": second}

    def loss(self, network: Network, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """NT-Xent over the global batch; ``chance`` is what it is before anything is learned."""
        _, first, second = self._views(network, batch)
        terms = nt_xent(first, second, temperature=self._settings.temperature)
        count = sum_over_ranks(terms.loss.new_full((), len(first)))
        return terms.loss, {"accuracy": terms.accuracy, "chance": (2 * count - 1).log()}

    def examine(self, network: Network, batch: Batch) -> Examination:
        """Whether partners find each other, and how the embeddings lie on the sphere."""
        features, first, second = self._views(network, batch)
        terms = nt_xent(first, second, temperature=self._settings.temperature)
        unit = functional.normalize(torch.cat((first, second)).float(), dim=1)
        count = len(first)
        measures = {
            "accuracy": float(terms.accuracy),
            "chance_accuracy": 1 / max(1, 2 * count - 1),
            "loss_below_chance": math.log(max(1, 2 * count - 1)) - float(terms.loss),
            "alignment": alignment(unit[:count], unit[count:]),
            "uniformity": uniformity(unit),
            "embedding_spread": spread(unit),
            "embedding_rank": effective_rank(unit),
        }
        return Examination(terms.loss, measures, features[:count])

    def _views(self, network: Network, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        images = batch["images"]
        with full_precision(images):
            views = torch.cat([apply_views(images, batch[name]) for name in ("first", "second")])
        features, embeddings = self.embed(network, views)
        first, second = embeddings.chunk(2)
        return features, first, second


class ImageObjective(ContrastiveObjective[SegmentationNetwork]):
    """Contrastive learning on the mean of the last block's tokens."""

    def make_head(self, network: SegmentationNetwork, channels: int) -> nn.Module:
        """See ``Objective.make_head``."""
        return ContrastiveHead(network.image_encoder.shapes[-1].width)

    def embed(self, network: SegmentationNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
        """See ``ContrastiveObjective.embed``."""
        (tokens,) = network.image_encoder.forward_tokens(network.to_rgb(images), (network.image_encoder.depth,))
        return tokens.mean(dim=(1, 2)), self.head(tokens)


class PixelObjective(Objective[SegmentationNetwork, DenoisingSettings]):
    """Denoising from the tokens of four depths."""

    def make_head(self, network: SegmentationNetwork, channels: int) -> nn.Module:
        """See ``Objective.make_head``."""
        self._noise, self._rician = make_noise(self._settings.noise), rician_channels(self._plans)
        self._taps = tap_blocks(network.image_encoder.shapes)
        shapes = [network.image_encoder.shapes[tap - 1] for tap in self._taps]
        return DenoisingDecoder(shapes, network.input_size, channels)

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Slices, the parameters of one view of each, and of its noise."""
        noise = self._noise.draw(self._source.keys(indices), seed=self._seed, epoch=epoch)
        return {**super().load(indices, epoch), "noise": noise}

    @property
    def coupled(self) -> bool:
        """A Dice is a ratio of sums over the batch."""
        return self._settings.dice > 0

    def loss(self, network: SegmentationNetwork, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error against the clean view; ``noisy`` is the error of leaving everything as it is."""
        clean, noisy, tokens = self._restore(network, batch)
        return self._error(self.head(tokens), clean), {"noisy": self._error(noisy, clean)}

    def examine(self, network: SegmentationNetwork, batch: Batch) -> Examination:
        """Whether the restored slices are nearer to the clean ones than the noisy ones are (PSNR in dB, SSIM).

        A view of nothing but air is not changed by replacing pixels with their neighbours; there is nothing to
        restore in it, and it is not scored.
        """
        clean, noisy, tokens = self._restore(network, batch)
        restored = self.head(tokens).float()
        before, after = (restoration_scores(images, clean) for images in (noisy, restored))
        measures = {"noisy": float(self._error(noisy, clean)), **_gains(before, after)}
        shown = {"original": clean, "noisy": noisy, "restored": restored, "error": (restored - clean).abs()}
        return Examination(
            self._error(restored, clean),
            measures,
            tokens[-1].mean(dim=(1, 2)),
            {name: images[:, 0].clamp(0, 1) for name, images in shown.items()},
        )

    def _restore(self, network: SegmentationNetwork, batch: Batch) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """The clean and the noisy view, and the tokens that the decoder restores the latter from."""
        clean = view_of(batch)
        with full_precision(clean):
            noisy = self._noise.apply(clean, batch["noise"], self._rician)
        return clean, noisy, network.image_encoder.forward_tokens(network.to_rgb(noisy), self._taps)

    def _error(self, images: Tensor, clean: Tensor) -> Tensor:
        error = mean_squared_error(images, clean)
        if not self._settings.dice:
            return error
        return self._settings.dice * soft_dice(images, clean) + (1 - self._settings.dice) * error


def _gains(before: RestorationScores, after: RestorationScores) -> dict[str, float]:
    """Mean scores of the restored slices, and what they gain over the noisy ones; empty where no slice was changed."""
    changed = [number for number, psnr in enumerate(before.psnr) if psnr < LARGEST_PSNR]
    if not changed:
        return {}
    measures = {}
    for name, noisy, restored in (("psnr", before.psnr, after.psnr), ("ssim", before.ssim, after.ssim)):
        measures[name] = fmean(restored[number] for number in changed)
        measures[f"{name}_gain"] = measures[name] - fmean(noisy[number] for number in changed)
    return measures
