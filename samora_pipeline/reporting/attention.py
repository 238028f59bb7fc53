"""Where a network looks for an organ (SAMora, Fig. 5): relevance of the encoder's output for the organ's logits.

SAM has no class token whose attention could be shown, and the weights of its encoder's attention, averaged over an
organ's tokens, follow bones and bright borders rather than the organ. Shown is therefore HiResCAM (Draelos and Carin,
arXiv:2011.08891) at the image embedding that the decoder gets: gradient times activation, element by element, summed
over channels, negative parts cut off. The gradient is that of the organ's logits, summed over the pixels that the
network gives to the organ (Seg-Grad-CAM, Vinogradova et al., 2020), or over the reference where it finds none.

Shapes: H, W rows and columns of the source grid; N input size, n side of the logits, g side of the embedding.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from matplotlib import colormaps
from torch import Tensor

from samora_pipeline.contracts.colours import SKY_BLUE, rgb
from samora_pipeline.models.backbones.backbone import Features
from samora_pipeline.models.freezing import freeze
from samora_pipeline.reporting.html_blocks import Cell, Figure, Section, Table, Value, cell
from samora_pipeline.reporting.html_images import webp_image
from samora_pipeline.reporting.painting import Frame, edge, frame_around, sheet
from samora_pipeline.reporting.pictures import CaseStack, Mask, seen_along
from samora_pipeline.reporting.report_network import NetworkProbe

METHOD = "HiResCAM at the encoder's output"
_SIDE, _LEAST_WIDTH = 190, 150
_MOST_ORGANS = 10
_STRONGEST = 0.75
"""opacity of the strongest relevance"""
_MAP = colormaps["inferno"]


@dataclass(frozen=True)
class Relevance:
    """``map`` [H,W] from 0 to 1. ``lift``: how much denser relevance is inside the organ than over the whole slice.

    ``found``: whether the network gives the organ a pixel in this slice.
    """

    map: npt.NDArray[np.float32]
    lift: float | None
    found: bool


def relevance(probe: NetworkProbe, stack: CaseStack, index: int, organ: int) -> Relevance:
    """Where the logits of ``organ`` (its place in the label scheme) come from in one slice."""
    network, labels = probe.network, probe.config.labels
    output = organ if labels.regions else organ + 1
    values = labels.foreground[organ][1]
    reference = np.isin(stack.reference[index], values)
    freeze(network, frozenset())
    embedding, logits = _run(probe, probe.inputs(stack, (index,)))
    chosen = logits[:, output] > 0 if labels.regions else logits.argmax(1) == output
    found = bool(chosen.any())
    if not found:
        chosen = _seen_along(probe, stack, index, values, logits)
    (gradient,) = torch.autograd.grad((logits[:, output] * chosen).sum(), embedding)
    small = (gradient * embedding).sum(1).relu().detach().float().cpu().numpy()
    placed = np.clip(probe.on_source_grid(stack, small)[0], 0, None)
    return Relevance(placed / max(float(placed.max()), 1e-12), _lift(placed, reference), found)


def attention_section(probes: dict[str, NetworkProbe], stack: CaseStack, warnings: tuple[str, ...]) -> Section:
    """One picture per organ and run, each in the slice where the organ is largest, and the lifts as a table.

    ``probes`` are the networks by a short name, which is empty where there is one.
    """
    labels = next(iter(probes.values())).config.labels
    sizes = {
        place: np.isin(stack.reference, values).sum(axis=(1, 2)) for place, (_, values) in enumerate(labels.foreground)
    }
    present = [place for place, pixels in sizes.items() if pixels.any()]
    frame = frame_around(seen_along(labels, stack.reference), stack.aspect, _SIDE, _LEAST_WIDTH)
    tiles: list[tuple[str, PIL.Image.Image]] = []
    lifts: dict[str, tuple[Value, ...]] = {}
    for place in present[:_MOST_ORGANS]:
        index, (name, values) = int(sizes[place].argmax()), labels.foreground[place]
        found = {run: relevance(one, stack, index, place) for run, one in probes.items()}
        outline = edge(frame.labels(np.isin(stack.reference[index], values).astype(np.uint8)) > 0)
        scan = frame.scan(stack.images[index, 0])
        tiles.append((f"slice {index + 1}: {name.replace('_', ' ')}", _outlined(scan, outline)))
        tiles += [(f"relevance {run}".strip(), _heated(scan, one.map, frame, outline)) for run, one in found.items()]
        lifts[name] = (index + 1, *(_lift_cell(one) for one in found.values()))
    header = ("organ", "slice", *(f"lift {name}".strip() for name in probes))
    rows = [(name, *row) for name, row in lifts.items()]
    names = [name.replace("_", " ") for name, _ in labels.foreground]
    skipped = {
        "Not in the reference of this case": [name for place, name in enumerate(names) if place not in present],
        f"Beyond the {_MOST_ORGANS} that are drawn": [names[place] for place in present[_MOST_ORGANS:]],
    }
    notes = [f"{why}: {', '.join(listed)}." for why, listed in skipped.items() if listed]
    if any(cell(one, 1).value is None for row in lifts.values() for one in row):
        notes.append("-: nothing in the slice speaks for the organ; all that the network uses there speaks against it.")
    table = Table("lifts", "Relevance inside the organ against the whole slice", header, rows, notes=notes)
    words = "; ".join(f"{name}: {', '.join(cell(one, 1).text for one in row[1:])}" for name, row in lifts.items())
    figure = Figure(
        "relevance",
        webp_image(sheet(tiles, 2 * (1 + len(probes))), warnings, quality=65),
        f"Relevance maps of {len(rows)} organs in {stack.name}; lift of {words}",
        f"Case {stack.name} (the median by mean Dice), each organ in the slice where it is largest. Blue line: the "
        f"reference. Bright: relevant. Method: {METHOD} (gradient times activation for the organ's logits), each map "
        "scaled to its own maximum. The grid of the encoder is coarse, so a map cannot be sharper than its cells.",
    )
    return Section("attention", (figure, table), words=(METHOD,))


def _run(probe: NetworkProbe, images: Tensor) -> tuple[Tensor, Tensor]:
    """The embedding, from which on gradients are recorded, and the logits (1,K,n,n)."""
    kept: list[Tensor] = []

    def open_up(module: Any, inputs: Any, features: Features) -> Features:
        kept.append(features.embedding.detach().requires_grad_())
        return features._replace(embedding=kept[0])

    handle = probe.network.image_encoder.register_forward_hook(open_up)
    try:
        with torch.enable_grad():
            logits: Tensor = probe.network(images)
    finally:
        handle.remove()
    return kept[0], logits


def _seen_along(probe: NetworkProbe, stack: CaseStack, index: int, values: tuple[int, ...], logits: Tensor) -> Tensor:
    placed = np.isin(probe.in_plane(stack).labels(stack.reference[index]), values)
    wide = torch.from_numpy(placed)[None, None].float().to(logits.device)
    return torch.nn.functional.interpolate(wide, logits.shape[-2:], mode="area")[:, 0] > 0


def _lift(placed: npt.NDArray[np.float32], reference: Mask) -> float | None:
    total, area = float(placed.sum()), float(reference.mean())
    return float(placed[reference].sum()) / total / area if total > 0 and area > 0 else None


def _outlined(scan: PIL.Image.Image, outline: Mask) -> PIL.Image.Image:
    pixels = np.array(scan.convert("RGB"))
    pixels[outline] = rgb(SKY_BLUE)
    return PIL.Image.fromarray(pixels)


def _heated(scan: PIL.Image.Image, heat: npt.NDArray[np.float32], frame: Frame, outline: Mask) -> PIL.Image.Image:
    shown = frame.scan(heat)
    colours = PIL.Image.fromarray(_MAP(np.asarray(shown), bytes=True)).convert("RGB")
    opacity = shown.point(lambda value: round(255 * _STRONGEST * (value / 255) ** 0.5))
    return _outlined(PIL.Image.composite(colours, scan.convert("RGB"), opacity), outline)


def _lift_cell(one: Relevance) -> Cell:
    if one.lift is None:
        return Cell("-")
    return Cell(f"{one.lift:.1f}{'' if one.found else ' (not found here)'}", one.lift)
