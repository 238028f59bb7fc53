"""Whole volumes through networks that take them: averaged to the network's grid, logits back on the source grid.

Shapes: S slices, C channels, H W rows and columns of the source grid; D h w the network's grid; K output maps; B slices
of a chunk.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import Volume
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.errors import ResourceError
from samora_pipeline.imaging.intensity import normalize
from samora_pipeline.imaging.volume_map import VolumeMap
from samora_pipeline.inference.device import pick_device
from samora_pipeline.inference.precision import Precision, pick_arithmetic
from samora_pipeline.inference.predictor import CHUNK_BYTES, Images, Predictor, ScoreChunk, measured

_SPATIAL = (2, 3, 4)


class VolumePredictor(Predictor):
    """A ``Predictor`` whose networks go from (B,C,D,h,w) in [0, 1], ``volume`` voxels, to logits (B,K,D,h,w).

    Logits of every network and view are kept at the network's grid; probabilities are made of them on the source grid,
    some slices at a time, and averaged there. With ``tta`` volumes are mirrored along all axes where the plan allows.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        plans: Plans,
        labels: LabelScheme,
        *,
        volume: Volume,
        device: str | torch.device | None = "cpu",
        precision: Precision = "auto",
        tta: bool = False,
        **options: Any,
    ) -> None:
        own_device = pick_device(device)
        build = (lambda: networks[0].eval()) if networks else None
        arithmetic = pick_arithmetic(own_device, precision, build, (1, len(plans.channel_names), *volume))
        options |= {"input_size": max(volume), "device": own_device, "precision": arithmetic.name}
        super().__init__(networks, plans, labels, **options)
        self.volume, self.arithmetic = volume, arithmetic
        flips = _SPATIAL if tta and plans.mirror.value else ()
        self._views = [view for count in range(len(flips) + 1) for view in combinations(flips, count)]

    def predict_scores(self, images: Images, spacing: tuple[float, float, float]) -> Iterator[ScoreChunk]:
        """See ``Predictor.predict_scores``.

        Raises:
            ResourceError: ``E-MEM-01`` when memory does not hold the prediction of the volume.
        """
        slices, channels, *plane = images.shape
        way, rules = VolumeMap.between((slices, *plane), self.volume), self.plans.intensity.value
        found = measured(images, self.plans)
        volume = way.image(lambda index: normalize(images[index : index + 1], rules, found)[0], channels)
        with torch.inference_mode():
            members = self._members(torch.from_numpy(volume)[None])
            planes, rows, columns = (torch.from_numpy(one.copy()).to(self.device) for one in way.logit_operators())
            size = max(1, CHUNK_BYTES[self.device.type] // (4 * self.labels.num_outputs * int(np.prod(plane))))
            for start in range(0, slices, size):
                total: Tensor | None = None
                for logits in members:
                    nearby = torch.einsum("sd,kdhw->skhw", planes[start : start + size], logits)
                    scores = rows @ nearby @ columns.T
                    member = scores.sigmoid() if self.labels.regions else scores.softmax(1)
                    total = member if total is None else total.add_(member)
                if total is not None:
                    yield ScoreChunk(start, total.div_(len(members)))

    def _members(self, volume: Tensor) -> list[Tensor]:
        """The logits (K,D,h,w) of every network and view of a volume (1,C,D,h,w)."""
        images, members = volume.to(self.device), []
        try:
            for network in self._networks:
                for view in self._views:
                    with self.arithmetic.autocast(self.device):
                        logits = network(images.flip(view)).flip(view)
                    members.append(logits[0].float())
        except torch.OutOfMemoryError as error:
            what = f"memory on {self.device} does not hold the prediction of a volume"
            expected = f"room for {' x '.join(map(str, self.volume))} voxels and {len(self._networks)} networks"
            raise ResourceError("E-MEM-01", what, found=str(error).splitlines()[0], expected=expected) from error
        if not members:
            raise ValueError("a predictor needs at least one network")
        return members
