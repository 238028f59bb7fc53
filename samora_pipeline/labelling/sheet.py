"""Pictures of the slices that a round asks for, with what is proposed for them: a sheet, and a page with a slider.

The page is one file that fetches nothing; its verdicts are exported as verdicts.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
from markupsafe import Markup

from samora_pipeline.contracts.labelling import VERDICTS_FILE, AskedSlice, Round
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.plans import SliceAxis
from samora_pipeline.files import write_text
from samora_pipeline.imaging.volume import Volume, labels_to_slices, slice_geometry, to_slices
from samora_pipeline.reporting import painting
from samora_pipeline.reporting.html_images import palette_address, webp_address
from samora_pipeline.reporting.html_page import embedded_json, environment_of_pages
from samora_pipeline.reporting.overlays import below, save, written
from samora_pipeline.reporting.painting import Frame, Layer

SHEET_FILE = "slices.png"
PAGE_FILE = "slices.html"
_SIDE, _COLUMNS, _QUALITY = 320, 5, 70


@dataclass(frozen=True)
class ShownSlice:
    """A slice as it is shown: its scan, and the proposal as a layer over it."""

    asked: AskedSlice
    scan: PIL.Image.Image
    proposal: Layer

    @property
    def title(self) -> str:
        """Its scan and number."""
        return f"{self.asked.case} slice {self.asked.index}"


@dataclass
class Sheet:
    """The pictures of a round, scan by scan."""

    scheme: LabelScheme
    plane: SliceAxis
    slices: list[ShownSlice] = field(default_factory=list)

    def add(self, scan: Volume, proposal: npt.NDArray[np.uint8], asked: Sequence[AskedSlice]) -> None:
        """Draw slices of a scan as a radiologist sees them; ``proposal`` [X, Y, Z] on its grid."""
        geometry = slice_geometry(scan.grid, self.plane)
        images, _ = to_slices((scan,), self.plane)
        labels = labels_to_slices(Volume(proposal.astype(np.uint8), scan.grid, scan.path), geometry)
        count = len(images)
        places = [count - 1 - one.index if geometry.flips[0] else one.index for one in asked]
        low, high = np.percentile(images[places, 0], (0.5, 99.5))
        frame = _whole(images.shape[2:], geometry.spacing[1] / geometry.spacing[2])
        for one, place in zip(asked, places, strict=True):
            grey = np.clip((images[place, 0] - low) / (max(high, low + 1) - low), 0, 1).astype(np.float32)
            layer = painting.organs_layer(frame, labels[place], self.scheme, numbered=False)
            self.slices.append(ShownSlice(one, frame.scan(grey), layer))

    def write(self, folder: Path, record: Round) -> None:
        """Write the sheet and the page of a round."""
        tiles = [(one.title, one.proposal.on(one.scan)) for one in self.slices]
        drawn = painting.sheet(tiles, min(_COLUMNS, len(tiles)))
        names = ", ".join(entry.text for entry in painting.organ_legend(self.scheme).entries)
        save(folder / SHEET_FILE, below([written(f"Slices to label: {names}", drawn.width, bold=True), drawn]), ())
        write_text(folder / PAGE_FILE, self._page(record))

    def _page(self, record: Round) -> str:
        environment = environment_of_pages()
        shown = [
            {
                "case": one.asked.case,
                "index": one.asked.index,
                "reason": one.asked.reason,
                "scan": webp_address(one.scan, _QUALITY),
                "proposal": palette_address(one.proposal.indices, one.proposal.colours),
            }
            for one in self.slices
        ]
        style = "".join(environment.get_template(name).render() for name in ("report.css", "labelling.css"))
        return environment.get_template("labelling.html.j2").render(
            round=record,
            file=VERDICTS_FILE,
            legend=painting.organ_legend(self.scheme).entries,
            style=Markup(style),
            script=Markup(environment.get_template("labelling.js").render()),
            data=Markup(embedded_json({"identity": record.identity, "file": VERDICTS_FILE, "slices": shown})),
        )


def _whole(shape: tuple[int, ...], aspect: float) -> Frame:
    return painting.frame_around(np.ones(shape, dtype=np.bool_), aspect, _SIDE)
