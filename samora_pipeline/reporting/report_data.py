"""The data behind a run, as the last check found them: sizes, faults, which labels the budget holds, all cases at once.

Shapes: H, W rows and columns of a slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import median

import numpy as np
import numpy.typing as npt
import PIL.Image
from matplotlib.figure import Figure as Drawing
from PIL import ImageDraw, ImageFont

from samora_pipeline.contracts.fingerprint import FINGERPRINT_FILE, Fingerprint
from samora_pipeline.contracts.integrity import INTEGRITY_FILE, IntegrityReport
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.contracts.stored_case import StoredCase
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.intensity import normalize
from samora_pipeline.reporting.html_blocks import Block, Cell, Figure, Note, Section, Table, cells
from samora_pipeline.reporting.html_images import drawing, svg_image, webp_image
from samora_pipeline.reporting.palette import ORANGE
from samora_pipeline.reporting.report_run import Places, ReportedRun, blocks_or_reason
from samora_pipeline.reporting.slider_pictures import frame_around, organ_legend, tinted
from samora_pipeline.slices.store import StoredSlices

_BINS = 48
_MOST_ROWS = 40
_MOST_TILES = 36
_TILE = 132
_COLUMNS = 6


def data_section(run: ReportedRun, stamps: tuple[str, ...]) -> Section:
    """Faults, sizes, class x slice x patient, and a contact sheet.

    Raises:
        DataError: ``E-REPORT-03`` the preprocessed dataset is not there, others where its files are damaged.
    """
    places, config = run.places, run.config
    if not places.slices.is_dir():
        raise DataError(
            "E-REPORT-03",
            "the preprocessed dataset is not there, so the pictures of its cases are left out",
            found=str(places.preprocessed),
            fix="samora_plan_and_preprocess, then samora_report RUN",
        )
    wanted = _wanted(config)
    blocks = blocks_or_reason(partial(_faults, places))
    blocks += blocks_or_reason(partial(_geometry, places))
    blocks += blocks_or_reason(partial(_cases, run, wanted, stamps))
    blocks.append(_leaks(config))
    return Section(
        "data",
        "Data",
        "What the run learned from and was scored on, as the check before planning found it.",
        "Outlines in the contact sheet should lie on their organs; a case that looks unlike the others deserves a "
        "look in a viewer. In the map, an organ without orange marks has no labelled slice: it cannot be learned. "
        "A row whose band lies elsewhere is a scan of another part of the body, or one that stands on its head.",
        tuple(blocks),
    )


def _wanted(config: RunConfig) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*config.selection.cases, *config.scored)))


def _cases(run: ReportedRun, wanted: Sequence[str], stamps: tuple[str, ...]) -> Iterator[Block]:
    """What the stored cases show."""
    places, config = run.places, run.config
    records = {
        name: read_json(StoredCase, path) for name in wanted if (path := places.slices / f"{name}.json").is_file()
    }
    yield _budget(config, records)
    labelled = {name: record for name, record in records.items() if record.label_pixels}
    if labelled:
        yield _map(labelled, config, stamps)
    if records:
        yield _contact_sheet(places, records, config.plans, run, stamps)


def _faults(places: Places) -> list[Block]:
    path = places.preprocessed / INTEGRITY_FILE
    if not path.is_file():
        return [Note("There is no record of the check (integrity.json).")]
    report = read_json(IntegrityReport, path)
    blocks: list[Block] = [
        Note(f"{report.cases} cases were examined: {len(report.faults)} faults, {len(report.remarks)} remarks.")
    ]
    if report.faults:
        rows = tuple(cells((one.case, one.code, one.what, one.found, one.fix)) for one in report.faults)
        header = ("case", "code", "what", "found", "what to do")
        blocks.append(Table("faults", "Faults", header, rows, sortable=True))
    if report.remarks:
        rows = tuple(cells((one.case or "(dataset)", one.code, one.text)) for one in report.remarks)
        blocks.append(Table("remarks", "Remarks", ("case", "code", "what"), rows, sortable=True, folded=True))
    return blocks


def _geometry(places: Places) -> list[Block]:
    path = places.preprocessed / FINGERPRINT_FILE
    if not path.is_file():
        return []
    fingerprint = read_json(Fingerprint, path)
    rows = []
    for subset in ("train", "test", "unlabelled"):
        found = [case for case in fingerprint.cases.values() if case.subset == subset]
        if found:
            sizes, spacings = zip(*((case.shape, case.spacing) for case in found), strict=True)
            means = [channel.mean for case in found for channel in case.volume]
            rows.append(
                cells(
                    (
                        subset,
                        len(found),
                        _range(sizes, 0),
                        _range(spacings, 2),
                        f"{min(means):.4g} to {max(means):.4g}",
                        ", ".join(sorted({case.axes for case in found})),
                    )
                )
            )
    header = ("part", "cases", "voxels: smallest, median, largest", "spacing mm", "mean intensity", "axes")
    notes = [f"Set aside: {', '.join(f'{name} ({code})' for name, code in fingerprint.set_aside.items())}."]
    return [Table("geometry", "Sizes", header, tuple(rows), notes=tuple(notes) if fingerprint.set_aside else ())]


def _range(triples: Sequence[tuple[float, float, float]], digits: int) -> str:
    columns = list(zip(*triples, strict=True))
    parts = [" x ".join(f"{f(column):.{digits}f}" for column in columns) for f in (min, median, max)]
    return ", ".join(dict.fromkeys(parts))


def _budget(config: RunConfig, records: Mapping[str, StoredCase]) -> Table:
    """Class x labelled slices x patients, as numbers."""
    chosen = [case for case in config.selection.cases if case in records]
    rows = []
    for name, _ in config.labels.foreground:
        slices, holders = 0, 0
        for case in chosen:
            pixels = records[case].label_pixels.get(name, ())
            own = config.selection.slices.get(case, tuple(range(len(pixels))))
            held = sum(1 for index in own if index < len(pixels) and pixels[index])
            slices, holders = slices + held, holders + bool(held)
        scored = sum(1 for case in config.scored if case in records and any(records[case].label_pixels.get(name, ())))
        texts = (slices, holders, scored)
        rows.append((Cell(name, name), *(Cell(str(value), float(value)) for value in texts)))
    header = ("organ", "labelled slices that show it", "labelled cases that show it", "scored cases that have it")
    total = sum(len(config.selection.slices.get(case, ())) or records[case].shape[0] for case in chosen)
    notes = (f"Budget {config.split}: {total} labelled slices of {len(chosen)} cases.",)
    return Table("budget", "What the label budget holds", header, tuple(rows), notes=notes)


def _map(records: Mapping[str, StoredCase], config: RunConfig, stamps: tuple[str, ...]) -> Figure:
    """Class x slice x patient: where along the scan each organ lies, case by case, and which slices are labelled."""
    names = _thinned([case for case in _wanted(config) if case in records], _MOST_ROWS)
    trained = sum(case in config.selection.cases for case in names)
    organs = [name for name, _ in config.labels.foreground]
    columns = min(4, len(organs))
    rows = -(-len(organs) // columns)
    height = 0.7 + max(1.2, 0.085 * len(names))
    with drawing():
        figure = Drawing(figsize=(10.5, 0.5 + rows * height), layout="constrained", facecolor="white")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, organ in zip(grid, organs, strict=False):
            shares = np.stack([_profile(records[case].label_pixels.get(organ, ())) for case in names])
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=(0, 100, len(names), 0))
            places = [(x, y + 0.5) for y, case in enumerate(names) for x in _marks(case, organ, records, config)]
            if places:
                axes.scatter(*zip(*places, strict=True), s=11, color=ORANGE, edgecolors="black", linewidths=0.4)
            for y, case in enumerate(names):
                if (span := _whole_span(case, organ, records, config)) is not None:
                    axes.plot(span, [y + 0.85] * 2, color=ORANGE, linewidth=1.6, solid_capstyle="butt")
            axes.axhline(trained, color="black", linewidth=1)
            axes.set_title(organ.replace("_", " "), fontsize=9)
            axes.set_yticks([])
        for axes in grid[len(organs) :]:
            axes.set_visible(False)
        figure.supxlabel("place along the slice axis, % of the scan", fontsize=9)
        figure.supylabel("cases", fontsize=9)
        image = svg_image(figure, stamps)
    shown = f"{len(names)} of {len(_wanted(config))} cases" if len(names) < len(_wanted(config)) else "all cases"
    return Figure(
        "map",
        image,
        f"Map of organs over slices and cases; the numbers are in the table above ({shown}).",
        f"Each row is a case ({shown}; labelled ones above the line, scored ones below). The darker, the more of the "
        "organ lies in that part of the scan. Orange: labelled slices that show the organ, dots for single slices and "
        "a line under the organ where the whole case is labelled.",
    )


def _profile(pixels: Sequence[int]) -> npt.NDArray[np.float64]:
    """Pixels of an organ along the slices as shares of their maximum, in a fixed number of bins."""
    if not any(pixels):
        return np.zeros(_BINS)
    places = (np.arange(_BINS) + 0.5) / _BINS * len(pixels)
    profile: npt.NDArray[np.float64] = np.asarray(pixels, dtype=np.float64)[places.astype(int)] / max(pixels)
    return profile


def _marks(case: str, organ: str, records: Mapping[str, StoredCase], config: RunConfig) -> list[float]:
    if case not in config.selection.cases:
        return []
    pixels = records[case].label_pixels.get(organ, ())
    if case not in config.selection.slices:
        return []
    return [
        (index + 0.5) / len(pixels) * 100
        for index in config.selection.slices[case]
        if index < len(pixels) and pixels[index]
    ]


def _whole_span(
    case: str, organ: str, records: Mapping[str, StoredCase], config: RunConfig
) -> tuple[float, float] | None:
    """From where to where, in % of the scan, an organ lies in a case whose slices are all labelled."""
    pixels = records[case].label_pixels.get(organ, ())
    held = np.flatnonzero(pixels)
    if case not in config.selection.cases or case in config.selection.slices or not held.size:
        return None
    return float(held[0]) / len(pixels) * 100, float(held[-1] + 1) / len(pixels) * 100


def _contact_sheet(
    places: Places, records: Mapping[str, StoredCase], plans: Plans, run: ReportedRun, stamps: tuple[str, ...]
) -> Figure:
    """One slice of each case with its labels, in rows."""
    names = _thinned(list(records), _MOST_TILES)
    tiles = [_tile(places, records[name], plans, run, str(place)) for place, name in enumerate(names, start=1)]
    rows = -(-len(tiles) // _COLUMNS)
    sheet = np.full((rows * _TILE, _COLUMNS * _TILE, 3), 255, dtype=np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // _COLUMNS * _TILE, place % _COLUMNS * _TILE
        sheet[top : top + _TILE, left : left + _TILE] = tile
    texts = [f"{number} {name}" for number, name in enumerate(names, start=1)]
    shown = f"{len(names)} of {len(records)} cases" if len(names) < len(records) else f"all {len(names)} cases"
    return Figure(
        "contact-sheet",
        webp_image(sheet, stamps, quality=55),
        f"Contact sheet of {shown}, one slice each with coloured labels",
        f"{shown.capitalize()}, row by row, each in the slice that holds most labels: {'; '.join(texts)}.",
        (organ_legend(run.config.labels),),
    )


def _tile(places: Places, record: StoredCase, plans: Plans, run: ReportedRun, text: str) -> npt.NDArray[np.uint8]:
    stored = StoredSlices(places.slices, record)
    totals = np.sum([np.asarray(pixels) for pixels in record.label_pixels.values()], axis=0, dtype=np.int64)
    index = int(np.argmax(totals)) if np.any(totals) else record.shape[0] // 2
    image = normalize(stored.image(index)[:1], plans.intensity.value[:1], record.intensities[:1])
    spacing = record.geometry.spacing
    whole = np.ones(image.shape[1:], dtype=np.bool_)
    frame = frame_around(whole, spacing[1] / spacing[2], _TILE - 4)
    picture = frame.scan(image[0]).convert("RGB")
    if stored.labelled:
        picture = tinted(picture, frame.labels(stored.labels(index)), run.config.labels)
    tile = PIL.Image.new("RGB", (_TILE, _TILE), "black")
    tile.paste(picture, ((_TILE - frame.width) // 2, (_TILE - frame.height) // 2))
    ImageDraw.Draw(tile).text(
        (4, 2), text, fill="white", font=ImageFont.load_default(), stroke_width=1, stroke_fill="black"
    )
    return np.asarray(tile)


def _leaks(config: RunConfig) -> Table:
    pool = config.pool
    rows = (
        (
            "cases per dataset in the unlabelled pool",
            ", ".join(f"{k}: {len(v)}" for k, v in pool.cases.items()) or "none",
        ),
        ("scored scans in the pool", "yes (transductive)" if pool.transductive else "no"),
        ("kept out of the pool because they are scored", str(len(pool.excluded))),
        ("copies of another scan in the pool, left out", str(len(pool.copies))),
        ("training or pool scans that show what is scored, taken out", ", ".join(config.excluded_leaks) or "none"),
        ("the same, let in by name", ", ".join(config.allowed_leaks) or "none"),
    )
    return Table("leaks", "What keeps learning and scoring apart", ("question", "answer"), tuple(map(cells, rows)))


def _thinned(names: Sequence[str], count: int) -> list[str]:
    if len(names) <= count:
        return list(names)
    return [names[place] for place in np.linspace(0, len(names) - 1, count).round().astype(int)]
