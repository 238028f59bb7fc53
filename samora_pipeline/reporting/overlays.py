"""Pictures of single slices: image, reference, prediction and errors side by side (the layout of SAMora's Fig. 4).

Slices stand as a radiologist expects them, and each picture says which side is which. Shapes: H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke
from scipy.ndimage import distance_transform_edt
from skimage.measure import find_contours

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.plans import SLICE_AXES, SliceAxis
from samora_pipeline.files import atomic_path
from samora_pipeline.reporting.palette import ORANGE, PURPLE, SKY_BLUE, VERMILLION, organ_style
from samora_pipeline.reporting.pictures import Labels, Mask, Picture, errors, foreground_values

_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
_COLUMNS = ("Image", "Reference", "Prediction", "Errors")
_ERRORS = {
    "missed": ("missed", SKY_BLUE),
    "false": ("predicted, not in the reference", ORANGE),
    "confused": ("taken for another organ", PURPLE),
}
# More organs than this get a smaller legend.
_FEW = 9
_PLAIN: dict[str, Any] = {"frameon": False, "borderpad": 0, "alignment": "left"}
_SIDES = {"R": "right", "L": "left", "A": "front", "P": "back", "S": "head", "I": "feet"}
_DPI = 110
# Inches: the figure, one panel of a row, what stands above the panels, a line of the legend.
_WIDTH = 13.5
_PANEL = 2.66
_ABOVE = 0.47
_LINE = 0.2
_FILL = 0.35
# The part around the organs is enlarged when it is smaller than this share of the slice, with this margin around.
_ENLARGE_BELOW = 0.7
_MARGIN = 0.35

Box = tuple[slice, slice]


def draw_overlays(
    path: Path, pictures: Sequence[Picture], labels: LabelScheme, axis: SliceAxis, stamps: Sequence[str] = ()
) -> None:
    """Write one PNG with a row per picture; ``stamps`` (such as PHANTOM) are burned into it.

    Raises:
        ValueError: without pictures.
    """
    if not pictures:
        raise ValueError("there is no picture to draw")
    heights = [_height(picture, labels) for picture in pictures]
    figure = Figure(figsize=(_WIDTH, 1.0 + sum(heights)), dpi=_DPI, facecolor="white")
    parts = figure.subfigures(len(pictures) + 2, 1, squeeze=False, height_ratios=(0.45, *heights, 0.55))
    head, *rows, foot = parts[:, 0]
    _draw_head(head, axis, stamps)
    for row, height, picture in zip(rows, heights, pictures, strict=True):
        _draw_row(row, height, picture, labels, axis)
    _draw_foot(foot, any(labels.ignore is not None and (p.reference == labels.ignore).any() for p in pictures))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw_head(figure: SubFigure, axis: SliceAxis, stamps: Sequence[str]) -> None:
    letters = "".join(_OPPOSITE[direction] + direction for direction in reversed(SLICE_AXES[axis][1:]))
    sides = ", ".join(f"{letter} {_SIDES[letter]}" for letter in letters)
    lines = (
        "Dice compares the whole volumes: 1 is perfect, 0 is no overlap. Each organ has its colour in every row.",
        f"Letters at the edges are the patient's sides: {sides}.",
    )
    figure.text(0.012, 0.5, "\n".join(lines), fontsize=10, va="center", linespacing=1.4)
    if stamps:
        box = {"facecolor": VERMILLION, "edgecolor": "none", "pad": 5}
        style: dict[str, Any] = {"fontsize": 13, "weight": "bold", "color": "white", "ha": "right", "va": "center"}
        figure.text(0.988, 0.5, " | ".join(stamps), bbox=box, **style)


def _height(picture: Picture, labels: LabelScheme) -> float:
    """Inches of a row: as high as its slice, between half and one and a half times as high as wide."""
    rows, columns = picture.image.shape
    panel: float = _PANEL * min(max(picture.aspect * rows / columns, 0.5), 1.5)
    organs = len(labels.foreground)
    return _ABOVE + max(panel, _LINE * (organs + 1.5) * (1 if organs <= _FEW else 0.8)) + 0.1


def _draw_row(figure: SubFigure, height: float, picture: Picture, labels: LabelScheme, axis: SliceAxis) -> None:
    figure.text(0.012, 1 - 0.03 / height, picture.title, fontsize=12, weight="bold", va="top")
    top, bottom = 1 - _ABOVE / height, 0.1 / height
    grid = figure.add_gridspec(
        1, 5, width_ratios=(1, 1, 1, 1, 0.82), left=0.012, right=0.995, top=top, bottom=bottom, wspace=0.04
    )
    axes = [figure.add_subplot(grid[0, column]) for column in range(5)]
    box = _part(picture, labels)
    for number, (own, name) in enumerate(zip(axes[:4], _COLUMNS, strict=True)):
        whole = number == 0 or box is None
        own.set_title(name if whole else f"{name} (enlarged)", fontsize=10, pad=3)
        _draw_image(own, picture, dimmed=number == 3)
        _draw_sides(own, axis)
    if box is not None:
        _draw_box(axes[0], box)
    _draw_organs(axes[1], picture.reference, labels)
    _draw_ignored(axes[1], picture.reference, labels)
    _draw_organs(axes[2], picture.prediction, labels)
    _draw_errors(axes[3], picture, labels)
    for own, part in zip(axes[:4], (None, box, box, box), strict=True):
        _look_at(own, part, picture.image.shape)
    _draw_legend(axes[4], picture, labels)


def _draw_image(axes: Axes, picture: Picture, *, dimmed: bool) -> None:
    axes.imshow(picture.image, cmap="gray", vmin=0, vmax=2 if dimmed else 1, aspect=picture.aspect)
    axes.set_anchor("N")
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_sides(axes: Axes, axis: SliceAxis) -> None:
    down, right = SLICE_AXES[axis][1], SLICE_AXES[axis][2]
    places = ((0.5, 0.97, _OPPOSITE[down]), (0.5, 0.03, down), (0.03, 0.5, _OPPOSITE[right]), (0.97, 0.5, right))
    outline = {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 1.5}
    for x, y, letter in places:
        axes.text(
            x, y, letter, transform=axes.transAxes, color="white", fontsize=8, ha="center", va="center", bbox=outline
        )


def _draw_organs(axes: Axes, labels: Labels, scheme: LabelScheme) -> None:
    for index, (_, values) in enumerate(scheme.foreground):
        style = organ_style(index)
        mask = np.isin(labels, values)
        axes.imshow(_tint(mask, style.colour, _FILL), aspect=axes.get_aspect())
        _draw_contour(axes, mask, color=style.colour, linestyle=style.line, linewidth=1.5)
        if mask.any() and not scheme.regions:
            _draw_number(axes, mask, index + 1)


def _draw_number(axes: Axes, mask: Mask, number: int) -> None:
    """Write an organ's number where it is thickest."""
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    outline = [Stroke(linewidth=1.6, foreground="black"), Normal()]
    style: dict[str, Any] = {
        "fontsize": 8,
        "weight": "bold",
        "color": "white",
        "ha": "center",
        "va": "center",
        "clip_on": True,
    }
    axes.text(column, row, str(number), path_effects=outline, **style)


def _draw_ignored(axes: Axes, labels: Labels, scheme: LabelScheme) -> None:
    if scheme.ignore is not None and (labels == scheme.ignore).any():
        axes.contourf(labels == scheme.ignore, levels=[0.5, 1.5], colors="none", hatches=["////"])


def _draw_errors(axes: Axes, picture: Picture, labels: LabelScheme) -> None:
    for name, mask in errors(picture.reference, picture.prediction, labels).items():
        axes.imshow(_tint(mask, _ERRORS[name][1], 1.0), aspect=axes.get_aspect())
    foreground = np.isin(picture.reference, foreground_values(labels))
    _draw_contour(axes, foreground, color="white", linewidth=0.9)


def _draw_contour(axes: Axes, mask: Mask, **line: Any) -> None:
    for contour in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        axes.plot(contour[:, 1] - 1, contour[:, 0] - 1, **line)


def _draw_box(axes: Axes, box: Box) -> None:
    rows, columns = box
    corner = (columns.start - 0.5, rows.start - 0.5)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linestyle="dashed", linewidth=1.2))


def _look_at(axes: Axes, box: Box | None, shape: tuple[int, ...]) -> None:
    rows, columns = box or (slice(0, shape[0]), slice(0, shape[1]))
    axes.set_xlim(columns.start - 0.5, columns.stop - 0.5)
    axes.set_ylim(rows.stop - 0.5, rows.start - 0.5)


def _draw_legend(axes: Axes, picture: Picture, labels: LabelScheme) -> None:
    axes.axis("off")
    handles = []
    for index, (name, _) in enumerate(labels.foreground):
        style, dice = organ_style(index), picture.organs.get(name)
        number = "" if labels.regions else f"{index + 1}  "
        shown = "absent" if dice is None else f"{dice:.3f}"
        text = f"{number}{name.replace('_', ' ')}: {shown}"
        handles.append(Line2D([], [], color=style.colour, linestyle=style.line, linewidth=2.5, label=text))
    size = 10 if len(handles) <= _FEW else 8
    axes.legend(handles=handles, title="Organ: Dice", loc="upper left", fontsize=size, handlelength=2.6, **_PLAIN)


def _draw_foot(figure: SubFigure, ignored: bool) -> None:
    handles: list[Any] = [Patch(color=colour, label=text) for text, colour in _ERRORS.values()]
    handles.append(Line2D([], [], color="0.6", linewidth=1.5, label="outline of the reference (white in the picture)"))
    if ignored:
        handles.append(Patch(facecolor="none", edgecolor="0.3", hatch="////", label="ignored, not scored"))
    figure.legend(
        handles=handles,
        title="Colours of the last column",
        loc="center",
        ncols=len(handles),
        fontsize=10,
        frameon=False,
    )


def _tint(mask: Mask, colour: str, alpha: float) -> npt.NDArray[np.float32]:
    tint = np.zeros((*mask.shape, 4), dtype=np.float32)
    tint[mask] = (*to_rgb(colour), alpha)
    return tint


def _part(picture: Picture, labels: LabelScheme) -> Box | None:
    """The part of the slice around all that is labelled or predicted, in the slice's proportions; None if large."""
    values = foreground_values(labels)
    mask = np.isin(picture.reference, values) | np.isin(picture.prediction, values)
    if not mask.any():
        return None
    used = [np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1)]
    share = max((pixels[-1] - pixels[0] + 1) / size for pixels, size in zip(used, mask.shape, strict=True))
    share *= 1 + 2 * _MARGIN
    if share >= _ENLARGE_BELOW:
        return None
    rows, columns = (_span(pixels, size, share) for pixels, size in zip(used, mask.shape, strict=True))
    return rows, columns


def _span(used: npt.NDArray[np.intp], size: int, share: float) -> slice:
    length = max(1, round(share * size))
    start = round((used[0] + used[-1] + 1 - length) / 2)
    start = min(max(0, start), size - length)
    return slice(start, start + length)
