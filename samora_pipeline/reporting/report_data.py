"""The data behind a run, as the last check found them: sizes, faults, which labels the budget holds, all cases at once.

Shapes: H, W rows and columns of a slice.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import median

import numpy as np
import numpy.typing as npt
import PIL.Image
from matplotlib.figure import Figure as Drawing

from samora_pipeline.contracts.colours import ORANGE
from samora_pipeline.contracts.fingerprint import FINGERPRINT_FILE, Fingerprint
from samora_pipeline.contracts.integrity import INTEGRITY_FILE, IntegrityReport
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import TRAINING_FLAG, RunConfig
from samora_pipeline.contracts.stored_case import StoredCase, read_stored_case
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.intensity import normalize
from samora_pipeline.reporting.html_blocks import Block, Figure, Note, Section, Table
from samora_pipeline.reporting.html_images import drawing, svg_image, webp_image
from samora_pipeline.reporting.painting import frame_around, organ_legend, organs_layer, sheet
from samora_pipeline.reporting.pictures import evenly
from samora_pipeline.reporting.report_run import Places, ReportedRun, blocks_or_reason, reason
from samora_pipeline.slices.store import StoredSlices

_BINS = 48
_MOST_ROWS = 40
_MOST_TILES = 36
_TILE = 132
_COLUMNS = 6


def data_section(run: ReportedRun, warnings: tuple[str, ...]) -> Section:
    """Faults, sizes, class x slice x patient, and a contact sheet.

    Raises:
        DataError: ``E-REPORT-03`` the preprocessed dataset is not there, others where its files are damaged.
    """
    places, config = run.places, run.config
    if not places.slices.is_dir():
        raise DataError("E-REPORT-03", found=str(places.preprocessed))
    wanted = _wanted(config)
    blocks = blocks_or_reason(partial(_faults, places))
    blocks += blocks_or_reason(partial(_geometry, places))
    blocks += blocks_or_reason(partial(_cases, run, wanted, warnings))
    blocks.append(_leaks(config))
    return Section("data", tuple(blocks))


def _wanted(config: RunConfig) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*config.selection.cases, *config.scored)))


def _cases(run: ReportedRun, wanted: Sequence[str], warnings: tuple[str, ...]) -> Iterator[Block]:
    """What the stored cases show."""
    places, config = run.places, run.config
    records = {name: read_stored_case(path) for name in wanted if (path := places.slices / f"{name}.json").is_file()}
    yield _budget(config, records)
    labelled = {name: record for name, record in records.items() if record.label_pixels}
    if labelled:
        yield _map(labelled, config, warnings)
    if records:
        yield _contact_sheet(run, records, warnings)


def _faults(places: Places) -> list[Block]:
    path = places.preprocessed / INTEGRITY_FILE
    if not path.is_file():
        return [Note("There is no record of the check (integrity.json).")]
    report = read_json(IntegrityReport, path)
    blocks: list[Block] = [
        Note(f"{report.cases} cases were examined: {len(report.faults)} faults, {len(report.remarks)} remarks.")
    ]
    if report.faults:
        rows = [(one.case, one.code, one.what, one.found, one.fix) for one in report.faults]
        header = ("case", "code", "what", "found", "what to do")
        blocks.append(Table("faults", "Faults", header, rows, sortable=True))
    if report.remarks:
        remarks = [(one.case or "(dataset)", one.code, one.text) for one in report.remarks]
        blocks.append(Table("remarks", "Remarks", ("case", "code", "what"), remarks, sortable=True, folded=True))
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
            sizes, spacings = [case.shape for case in found], [case.spacing for case in found if case.spacing]
            means = [channel.mean for case in found for channel in case.volume]
            intensity = f"{min(means):.4g} to {max(means):.4g}"
            axes = ", ".join(sorted({case.axes for case in found}))
            spacing = _range(spacings, 2) if spacings else "unknown"
            rows.append((subset, len(found), _range(sizes, 0), spacing, intensity, axes))
    header = ("part", "cases", "voxels: smallest, median, largest", "spacing mm", "mean intensity", "axes")
    skipped = ", ".join(f"{name} ({code})" for name, code in fingerprint.skipped.items())
    return [Table("geometry", "Sizes", header, rows, notes=(f"Skipped: {skipped}.",) if skipped else ())]


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
        rows.append((name, slices, holders, scored))
    header = ("organ", "labelled slices that show it", "labelled cases that show it", "scored cases that have it")
    total = sum(len(config.selection.slices.get(case, ())) or records[case].shape[0] for case in chosen)
    notes = (f"Budget {config.split}: {total} labelled slices of {len(chosen)} cases.",)
    return Table("budget", "What the label budget holds", header, rows, notes=notes)


def _map(records: Mapping[str, StoredCase], config: RunConfig, warnings: tuple[str, ...]) -> Figure:
    """Class x slice x patient: where along the scan each organ lies, case by case, and which slices are labelled."""
    names = _evenly([case for case in _wanted(config) if case in records], _MOST_ROWS)
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
            for y, case in enumerate(names):
                dots, span = _labelled(case, records[case].label_pixels.get(organ, ()), config)
                if dots:
                    axes.scatter(dots, [y + 0.5] * len(dots), s=11, color=ORANGE, edgecolors="black", linewidths=0.4)
                if span:
                    axes.plot(span, [y + 0.85] * 2, color=ORANGE, linewidth=1.6, solid_capstyle="butt")
            axes.axhline(trained, color="black", linewidth=1)
            axes.set_title(organ.replace("_", " "), fontsize=9)
            axes.set_yticks([])
        for axes in grid[len(organs) :]:
            axes.set_visible(False)
        figure.supxlabel("place along the slice axis, % of the scan", fontsize=9)
        figure.supylabel("cases", fontsize=9)
        image = svg_image(figure, warnings)
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


def _labelled(case: str, pixels: Sequence[int], config: RunConfig) -> tuple[list[float], list[float]]:
    """Where, in % of the scan, labelled slices show an organ: single ones, or both ends in a whole labelled case."""
    held = np.flatnonzero(pixels)
    if case not in config.selection.cases or not held.size:
        return [], []
    if case not in config.selection.slices:
        return [], [float(end) / len(pixels) * 100 for end in (held[0], held[-1] + 1)]
    return [(index + 0.5) / len(pixels) * 100 for index in config.selection.slices[case] if index in held], []


def _contact_sheet(run: ReportedRun, records: Mapping[str, StoredCase], warnings: tuple[str, ...]) -> Figure:
    """One slice of each case with its labels, in rows."""
    names = _evenly(list(records), _MOST_TILES)
    tiles, texts = [], []
    for number, name in enumerate(names, start=1):
        try:
            with run.reading(name):
                tiles.append((str(number), _tile(run, records[name])))
            texts.append(f"{number} {name}")
        except DataError as error:
            if name == names[-1] and not tiles:
                raise
            texts.append(f"{number} {name} is left out: {reason(error)}")
    shown = f"{len(names)} of {len(records)} cases" if len(names) < len(records) else f"all {len(names)} cases"
    return Figure(
        "contact-sheet",
        webp_image(sheet(tiles, _COLUMNS), warnings, quality=55),
        f"Contact sheet of {shown}, one slice each with coloured labels",
        f"{shown.capitalize()}, row by row, each in the slice that holds most labels: {'; '.join(texts)}.",
        (organ_legend(run.config.labels),),
    )


def _tile(run: ReportedRun, record: StoredCase) -> PIL.Image.Image:
    stored = StoredSlices(run.places.slices, record)
    totals = np.sum([np.asarray(pixels) for pixels in record.label_pixels.values()], axis=0, dtype=np.int64)
    index = int(np.argmax(totals)) if np.any(totals) else record.shape[0] // 2
    image = normalize(stored.image(index)[:1], run.config.plans.intensity.value[:1], record.intensities[:1])
    spacing = record.geometry.spacing
    frame = frame_around(np.ones(image.shape[1:], dtype=np.bool_), spacing[1] / spacing[2], _TILE)
    scan = frame.scan(image[0])
    return organs_layer(frame, stored.labels(index), run.config.labels).on(scan) if stored.labelled else scan


def _leaks(config: RunConfig) -> Table:
    pool = config.pool
    cases = ", ".join(f"{name}: {len(listed)}" for name, listed in pool.cases.items())
    trained = "yes (they are trained on)" if pool.cases and TRAINING_FLAG in config.warnings else "no"
    rows = (
        ("cases per dataset in the unlabelled pool", cases or "none"),
        ("scored scans in the pool", "yes (transductive)" if pool.transductive else trained),
        ("kept out of the pool because they are scored", str(len(pool.excluded))),
        ("copies of another scan in the pool, left out", str(len(pool.copies))),
        ("training or pool scans that overlap the scored scans, excluded", ", ".join(config.excluded_leaks) or "none"),
        ("the same, included by name", ", ".join(config.allowed_leaks) or "none"),
    )
    return Table("leaks", "What keeps learning and scoring apart", ("question", "answer"), rows)


def _evenly(names: Sequence[str], count: int) -> list[str]:
    return [names[place] for place in evenly(range(len(names)), count)]
