"""From the slices of a volume to its label map: batches through the networks, scores back on the source grid.

Scores of a whole volume are never held: K output maps of 150 slices of 512 x 512 pixels are gigabytes. They come in
chunks of slices, averaged over the members (folds and mirrored views) as probabilities, and are decoded at once.

Shapes: X Y Z raw axes; S slices, C channels, H W rows and columns of the source grid; n input size; K output maps;
B slices of a chunk.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from samora_pipeline.contracts.fingerprint import IntensityStats
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import slices_seen
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.postprocessing import Step, read_steps
from samora_pipeline.errors import DataError, ResourceError
from samora_pipeline.imaging.intensity import measure, normalize, scheme_of
from samora_pipeline.imaging.resampling import InPlaneMap
from samora_pipeline.imaging.volume import Volume, require_finite, to_raw_grid, to_slices
from samora_pipeline.inference.arrays import SLICES_ROWS_COLUMNS, array_volumes
from samora_pipeline.inference.device import DeviceMap, memory_left, pick_batch, pick_device, prepared, room_for
from samora_pipeline.inference.precision import Precision, pick_arithmetic
from samora_pipeline.inference.probabilities import probability_writer, uncertainty_writer
from samora_pipeline.inference.runs import named_run, pick_folds
from samora_pipeline.paths import resolve_roots
from samora_pipeline.slices.augmentation import allowed_flips
from samora_pipeline.transfers import to_device

Labels = npt.NDArray[np.uint8]
Images = npt.NDArray[Any]

CHUNK_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}
"""upper bound of one chunk's scores on the source grid; a few temporaries of the same size come on top"""

_CPU_ALLOCATION = "can't allocate memory"


class ScoreChunk(NamedTuple):
    """Probabilities (B,K,H,W) of the slices from ``start`` on: softmax over K, or one sigmoid per region."""

    start: int
    probabilities: Tensor


class Predictor:
    """Networks of one run, with the plan and the labels they were trained for.

    Members are averaged as probabilities: every network, and with ``tta`` every mirrored view that the plan allows.
    Networks are any modules from (B,C,n,n) in [0, 1], n = ``input_size``, to logits (B,K,m,m). They are taken over:
    moved to the device, put in evaluation mode, and in bf16 the weights of their products are stored in bf16.

    Only matrix products and convolutions follow ``precision``; resizing and averaging are always done in float32.
    ``batch_size`` (slices per step; by default what suits the device) is halved whenever memory runs out, and changes
    results by rounding at most.

    Example:
        ``Predictor.load("Dataset001_Synapse/SAMoraTrainer__10pct__default")(array, spacing=(3.0, 0.8, 0.8))``
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        plans: Plans,
        labels: LabelScheme,
        *,
        input_size: int,
        neighbours: int = 0,
        device: str | torch.device | None = "cpu",
        precision: Precision = "auto",
        batch_size: int | None = None,
        tta: bool = False,
        steps: Sequence[Step] = (),
    ) -> None:
        self.plans = plans
        self.labels = labels
        self.device = pick_device(device)
        self.input_size = input_size
        self.batch_size = batch_size or pick_batch(self.device, input_size)
        shape = (self.batch_size, len(plans.channel_names) * slices_seen(neighbours), input_size, input_size)
        build = (lambda: networks[0].eval()) if networks else None
        self.arithmetic = pick_arithmetic(self.device, precision, build, shape)
        with room_for(f"{len(networks)} networks", self.device, "use fewer folds with -f, or --device cpu"):
            self._networks = [prepared(network, self.device, self.arithmetic.dtype) for network in networks]
        self._views = mirrored_views(plans) if tta else [()]
        self._steps = tuple(steps)
        self._neighbours = neighbours

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        folds: Sequence[str] | None = None,
        weights_folder: Path | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        batch_size: int | None = None,
        tta: bool = False,
        postprocessing: bool = True,
        allow_code: bool = False,
    ) -> "Predictor":
        """Load finished folds of a run; no trainer is needed. Networks on whole volumes give a ``VolumePredictor``.

        Args:
            run: a run folder or a fold folder, as a path or below the results folder
                (``DatasetNNN_Name/TRAINER__SPLIT__NAME``).
            folds: names of folds; None takes all that are finished.
            weights_folder: where public weights lie, for runs on a public base; None: ``weights`` below SAMORA_ROOT.
            device: ``cpu``, ``cuda``, ``cuda:1``; None takes CUDA where it works.
            precision: ``bf16``, ``fp32``, or ``auto``: see ``precision.pick_arithmetic``.
            batch_size: slices per step; None takes what suits the device.
            tta: average over the mirrored views that the plan allows.
            postprocessing: keep the largest component of the labels for which the run's training chose that.
            allow_code: import what the run's config.json names as ``package.module:Class``.

        Raises:
            AssetError: ``E-RUN-01`` no such run; the base encoder is not there.
            DataError: a file is missing, damaged or of another run; the base encoder has another digest;
                ``E-CODE-01`` the run names code and ``allow_code`` is off.
            UsageError: ``E-FOLD-02`` a fold that is not finished.
            ResourceError: ``E-MEM-21`` the device does not hold the networks.
        """
        from samora_pipeline.inference.loading import load_folds
        from samora_pipeline.inference.volumes import VolumePredictor

        # Before anything is read: a device that is not there is the cheapest of all mistakes to find.
        own_device = pick_device(device)
        roots = resolve_roots(None)
        trained = named_run(str(run), roots.results)
        folders = [trained.folds[name] for name in pick_folds(trained, folds)]
        loaded = load_folds(folders, weights_folder or roots.weights, allow_code=allow_code)
        first = loaded[0].config
        kind = cls if first.model.volume is None else partial(VolumePredictor, volume=first.model.volume)
        return kind(
            [fold.network for fold in loaded],
            first.plans,
            first.labels,
            input_size=first.model.input_size,
            neighbours=first.model.neighbours,
            device=own_device,
            precision=precision,
            batch_size=batch_size,
            tta=tta,
            steps=read_steps(folders) if postprocessing else (),
        )

    def __call__(self, array: Images, spacing: Sequence[float], axes: str = SLICES_ROWS_COLUMNS) -> Labels:
        """Segment an array (Z,Y,X) or (C,Z,Y,X) to label values (Z,Y,X).

        Args:
            array: intensities in source units (HU for CT), axes in the order of ``SimpleITK.GetArrayFromImage``.
            spacing: mm between neighbours along each axis, in the order of the axes: (slices, rows, columns).
            axes: where the index of each axis grows to. ``SPL``, the default: head, back, patient's left, as in an
                axial scan in DICOM's own orientation. nibabel's arrays in canonical orientation are ``RAS``.

        Raises:
            ValueError: an array, spacing or axes of another form.
            DataError: as ``predict_volume``.
        """
        return self.predict_volume(array_volumes(array, spacing, axes))

    def predict_volume(
        self, volumes: tuple[Volume, ...], *, probabilities: Path | None = None, uncertainty: Path | None = None
    ) -> Labels:
        """Segment one case.

        Args:
            volumes: its channels in the order of the plan, on one grid; intensities in source units.
            probabilities: where to write the probabilities too, see ``probabilities.py``.
            uncertainty: where to write their entropy, see there. Post-processing changes neither.

        Returns:
            Label values [X,Y,Z] on the raw grid of the first channel.

        Raises:
            DataError: ``E-CHAN-04`` a wrong number of channels, ``E-IMG-05`` voxels that are not finite, ``E-GEO-..``
                grids that differ, or no spacing where the plan samples pixels by mm.
            ResourceError: ``E-MEM-01`` when memory does not even hold one slice.
        """
        self._check_channels(volumes)
        for volume in volumes:
            require_finite(volume)
        if volumes[0].grid.spacing is None and self.plans.in_plane.value != "resize":
            why = f"the model samples pixels by mm ({self.plans.in_plane.value})"
            raise DataError("E-GEO-03", path=volumes[0].path, why=why, otherwise="", found=str(volumes[0].path))
        images, geometry = to_slices(volumes, self.plans.slice_axis.value)
        labels = np.empty((images.shape[0], *images.shape[2:]), dtype=np.uint8)
        with (
            probability_writer(probabilities, self.labels, geometry) as write,
            uncertainty_writer(uncertainty, geometry, regions=self.labels.regions) as write_uncertainty,
        ):
            for start, scores in self.predict_scores(images, geometry.spacing):
                labels[start : start + len(scores)] = self._decoded(scores)
                write(start, scores)
                write_uncertainty(start, scores)
        if self._steps:
            from samora_pipeline.inference.postprocessing import apply_steps

            labels = apply_steps(labels, self._steps)
        return to_raw_grid(labels, geometry)

    def predict_scores(self, images: Images, spacing: tuple[float, float, float]) -> Iterator[ScoreChunk]:
        """Yield the probabilities of slices [S,C,H,W] in source units, chunk by chunk and in order.

        ``spacing`` in mm between slices, rows and columns. The slices have to be a whole volume: the intensity rules
        of a plan may ask for its percentiles.
        """
        volumes = measured(images, self.plans)
        rows, columns = images.shape[2:]
        way = InPlaneMap.for_plan(rows, columns, spacing[1:], self.plans, self.input_size)
        in_plane = DeviceMap(way, self.device, regions=self.labels.regions)
        largest = max(1, CHUNK_BYTES[self.device.type] // (4 * self.labels.num_outputs * rows * columns))
        start = 0
        while start < len(images):
            size = min(self.batch_size, largest, len(images) - start)
            around = np.arange(start - self._neighbours, start + size + self._neighbours).clip(0, len(images) - 1)
            slices = normalize(images[around], self.plans.intensity.value, volumes)
            probabilities = self._try(torch.from_numpy(slices), in_plane)
            if probabilities is None:
                self._halve(size)
                continue
            yield ScoreChunk(start, probabilities)
            start += size

    def decode(self, probabilities: Tensor) -> Labels:
        """Turn probabilities (B,K,H,W) into label values [B,H,W], by the rules of ``LabelScheme.decode``."""
        if not self.labels.regions:
            values = torch.tensor([0, *(own[0] for _, own in self.labels.foreground)], dtype=torch.uint8)
            # Four times faster than argmax on a CPU, and of equal scores the first one wins.
            winners = probabilities.max(1).indices
            return to_device(values, winners.device)[winners].cpu().numpy()
        painted = torch.zeros_like(probabilities[:, 0], dtype=torch.uint8)
        for index, value in enumerate(self.labels.region_order):
            painted.masked_fill_(probabilities[:, index] > 0.5, value)
        return painted.cpu().numpy()

    def _decoded(self, probabilities: Tensor) -> Labels:
        """``decode``, of half of the slices at a time where memory does not hold what it makes of all of them."""
        try:
            return self.decode(probabilities)
        except torch.OutOfMemoryError:
            half = len(probabilities) // 2
        # Outside of the handler, whose traceback holds what the failed call had made.
        self._free(half)
        return np.concatenate([self._decoded(part) for part in (probabilities[:half], probabilities[half:])])

    def _try(self, slices: Tensor, in_plane: DeviceMap) -> Tensor | None:
        """The probabilities of normalized slices (B,C,H,W), of which the outer ones are only neighbours; or None when
        memory ran out.
        """
        try:
            with torch.inference_mode():
                return self._average(to_device(slices, self.device), in_plane)
        except RuntimeError as error:  # of which torch.OutOfMemoryError is one
            if not isinstance(error, torch.OutOfMemoryError) and _CPU_ALLOCATION not in str(error):
                raise
        return None

    def _average(self, slices: Tensor, in_plane: DeviceMap) -> Tensor:
        seen = slices_seen(self._neighbours)
        count = len(slices) - seen + 1
        resized = in_plane.image(slices)
        images = torch.cat([resized[first : first + count] for first in range(seen)], dim=1)
        total: Tensor | None = None
        for network in self._networks:
            for view in self._views:
                with self.arithmetic.autocast(self.device):
                    logits = network(images.flip(view)).flip(view)
                scores = in_plane.logits(logits.float())
                member = scores.sigmoid() if self.labels.regions else scores.softmax(1)
                total = member if total is None else total.add_(member)
        if total is None:
            raise ValueError("a predictor needs at least one network")
        return total.div_(len(self._networks) * len(self._views))

    def _halve(self, size: int) -> None:
        self._free(size // 2)
        self.batch_size = min(self.batch_size, size // 2)

    def _free(self, half: int) -> None:
        """Let go of memory that is cached, before half of the slices are tried; there is nothing less than one."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if not half:
            left = memory_left(self.device)
            raise ResourceError(
                "E-MEM-01", device=self.device, labels=self.labels, number=len(self._networks), found=left
            )

    def _check_channels(self, volumes: tuple[Volume, ...]) -> None:
        names = self.plans.channel_names
        deep = [volume for volume in volumes if volume.array.ndim != 3]
        if len(volumes) != len(names) or deep:
            found = f"shape {deep[0].array.shape} in {deep[0].path}" if deep else str(len(volumes))
            raise DataError("E-CHAN-04", number=len(names), names=", ".join(names), found=found)


def mirrored_views(plans: Plans) -> list[tuple[int, ...]]:
    """The axes of (B,C,H,W) to flip per view: all combinations of the flips that training used, none first."""
    rows, columns = allowed_flips(plans)
    axes = [axis for axis, allowed in ((2, rows), (3, columns)) if allowed]
    return [view for count in range(len(axes) + 1) for view in combinations(axes, count)]


def measured(images: Images, plans: Plans) -> list[IntensityStats]:
    """Statistics per channel of slices [S,C,H,W]; where no scheme of the plan needs them, of one voxel."""
    needed = any(scheme_of(rule).measured for rule in plans.intensity.value)
    voxels = images if needed else images[:1, :, :1, :1]
    return [measure(voxels[:, channel]) for channel in range(images.shape[1])]
