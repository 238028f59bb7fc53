"""From a survey to a raw dataset on disk: each case is loaded, checked and placed; a faulty one is skipped.

The checks here are light (readable, finite, channels and labels on one grid, label values declared); planning does
the full ones. All is written to a temporary folder that gets its name at the very end.

Where labels and image have one shape but headers that disagree, the case is skipped, with an image of the labels laid
on the scan by index; a case that is right there can be made to take over the header of its image.

Scans without labels that are added to a dataset are moved into its imagesUn when all are there. A scan that lies there
with the same bytes is left alone, so that a command that was killed can be repeated.
"""

import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dataset_conversion.survey import CaseSource, ConversionReport, LoadedCase, Skipped, Survey, shortened
from samora_pipeline.contracts.dataset import PublishedSplit, RawDataset, SamoraJson, read_dataset, write_dataset
from samora_pipeline.contracts.json_io import write_json
from samora_pipeline.errors import DataError, ResourceError
from samora_pipeline.files import TEMPORARY_MARK, atomic_folder, digest_file, exclusive
from samora_pipeline.imaging.files import write_labels, write_volume
from samora_pipeline.imaging.volume import Volume, label_array, require_finite, require_same_grid
from samora_pipeline.parallel import Outcome, map_cases

REPORT_FILE = "conversion.json"
OVERLAYS = "overlays"


def write_survey(
    survey: Survey, target: Path, converter: str, source: str, *, adopt: Collection[str] = (), workers: int = 1
) -> ConversionReport:
    """Write the cases of ``survey`` to the folder ``target``, which appears (or is replaced) when all is done.

    All volumes of the cases in ``adopt`` (``all``: of every case) take over the header of their first channel.

    Raises:
        DataError: ``E-CONV-01`` case names that repeat or cannot be file names, ``E-CONV-02`` no case is usable,
            ``E-CONV-03`` a name in ``adopt`` that no case has.
        ResourceError: ``E-DISK-01``, or ``E-LOCK-01`` while another process converts to the same target.
    """
    check_names(survey)
    adopted = _adopted(survey, adopt)
    sweep(target)
    shutil.rmtree(target.parent / OVERLAYS / target.name, ignore_errors=True)
    with atomic_folder(target) as folder, alone(folder):
        writer = CaseWriter(survey, folder, target.parent / OVERLAYS / target.name, adopted)
        report = writer.write_all(f"converting {target.name}", converter, source, workers)
        description = replace(survey.description, numTraining=report.training)
        write_dataset(folder, description, _limited(survey.ours, {fault.case for fault in report.skipped}))
        moved = tuple(f"{name} took over the header of its image (asked)" for name in sorted(adopted))
        report = replace(report, notes=report.notes + moved)
        write_json(report, folder / REPORT_FILE)
    return report


@dataclass(frozen=True)
class CaseWriter:
    """Loads, checks and places one case after the other in ``folder``; pictures of doubtful ones go to ``overlays``."""

    survey: Survey
    folder: Path
    overlays: Path
    adopt: frozenset[str] = frozenset()

    def write_all(self, what: str, converter: str, source: str, workers: int) -> ConversionReport:
        """Write every case and say what became of them; ``what`` is for progress, the rest for the report.

        Raises:
            DataError: ``E-CONV-02`` no case of ``source`` is usable.
            ResourceError: ``E-DISK-01``.
        """
        items = [(case.name, case) for case in self.survey.cases]
        skipped = _faults(map_cases(self.write, items, workers, what))
        gone = {fault.case for fault in skipped}
        parts = [case.part for case in self.survey.cases if case.name not in gone]
        if parts:
            counts = (parts.count("Tr"), parts.count("Ts"), parts.count("Un"))
            return ConversionReport(converter, source, *counts, skipped, self.survey.notes)
        found = "\n    ".join(f"{fault.case}: {fault.code} {fault.reason}" for fault in skipped[:10])
        raise DataError("E-CONV-02", source=source, found=found or "no case at all")

    def write(self, case: CaseSource) -> None:
        """Write one case.

        Raises:
            DataError: the case is faulty; nothing of it has been written.
        """
        try:
            loaded = case.load()
        except OSError as error:
            raise DataError("E-IMG-01", what=f"{case.name} cannot be read", found=str(error), fix="") from error
        if case.name in self.adopt:
            loaded = _on_one_grid(loaded)
        self._check(case, loaded)
        ending = self.survey.description.file_ending
        for number, volume in enumerate(loaded.channels):
            path = self.folder / f"images{case.part}" / f"{case.name}_{number:04d}{ending}"
            if not self._place(loaded, volume, path):
                write_volume(path, volume.array, volume.grid)
        if loaded.label is not None:
            path = self.folder / f"labels{case.part}" / f"{case.name}{ending}"
            if not self._place(loaded, loaded.label, path):
                write_labels(path, label_array(loaded.label), loaded.label)

    def _check(self, case: CaseSource, loaded: LoadedCase) -> None:
        expected = len(self.survey.description.channel_names)
        if len(loaded.channels) != expected:
            raise _fault("E-CHAN-01", case, "has a wrong number of channels", f"{len(loaded.channels)}", f"{expected}")
        volumes = (*loaded.channels, *([loaded.label] if loaded.label else []))
        if len({volume.array.shape for volume in volumes}) > 1 or volumes[0].array.ndim != 3:
            found = ", ".join(f"{volume.path.name} {volume.array.shape}" for volume in volumes)
            raise _fault("E-GEO-01", case, "has images or labels of different shapes", found, "one 3-D shape")
        self._check_grids(case, loaded)
        for volume in loaded.channels:
            require_finite(volume)
        if loaded.label is not None:
            self._check_labels(case, loaded.label)
        elif case.part == "Tr":
            raise _fault("E-LABEL-03", case, "has no label map", "an image alone", "labels for each training case")

    def _check_grids(self, case: CaseSource, loaded: LoadedCase) -> None:
        image, label = loaded.channels[0], loaded.label
        try:
            for other in (*loaded.channels[1:], *([label] if label else [])):
                require_same_grid(image, other)
        except DataError as error:
            fix = f"repair the headers at their source, or: --adopt-image-header {case.name}"
            if label is not None:
                # Drawing needs a plotting library, and hardly any source needs a drawing.
                from samora_pipeline.reporting.overlays import draw_label_check

                picture = self.overlays / f"{case.name}.png"
                draw_label_check(picture, image, label, f"{case.name}: labels laid on the image, headers ignored")
                fix += f"  but only if {picture} is right"
            raise DataError(error.code, error.what, found=error.found, expected=error.expected, fix=fix) from error

    def _check_labels(self, case: CaseSource, label: Volume) -> None:
        declared = self.survey.description.scheme.values
        if unknown := sorted(set(np.unique(label_array(label)).tolist()) - declared):
            found, expected = f"{shortened(unknown, 20)} in {label.path.name}", shortened(sorted(declared), 20)
            raise _fault("E-LABEL-09", case, "has label values that are not declared", found, expected)

    def _place(self, loaded: LoadedCase, volume: Volume, path: Path) -> bool:
        """Link or copy the volume's own file to ``path`` if it can stay as it is; False when it must be written."""
        if volume.path not in loaded.unchanged or not volume.path.name.endswith(self.survey.description.file_ending):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        original = volume.path.resolve()
        if self.survey.placement == "symlink":
            path.symlink_to(original)
            return True
        try:
            path.hardlink_to(original)
        except OSError:
            # Another file system, or one without hard links.
            shutil.copyfile(original, path)
        return True


def _on_one_grid(loaded: LoadedCase) -> LoadedCase:
    """All volumes of a case on the grid of its first channel, where shapes agree; none but that one stays as it is."""
    first = loaded.channels[0]

    def moved(volume: Volume) -> Volume:
        return replace(volume, grid=first.grid, header=None) if volume.grid.shape == first.grid.shape else volume

    channels = (first, *(moved(volume) for volume in loaded.channels[1:]))
    return LoadedCase(channels, moved(loaded.label) if loaded.label else None, loaded.unchanged & {first.path})


def _adopted(survey: Survey, adopt: Collection[str]) -> frozenset[str]:
    names = [case.name for case in survey.cases]
    if "all" in adopt:
        return frozenset(names)
    if unknown := sorted(set(adopt) - set(names)):
        raise DataError("E-CONV-03", found=", ".join(unknown), expected=shortened(names, 5))
    return frozenset(adopt)


def check_names(survey: Survey) -> None:
    """Refuse case names that repeat or that cannot be file names (``E-CONV-01``)."""
    names = [case.name for case in survey.cases]
    repeated = sorted({name for name in names if names.count(name) > 1})
    unfit = [name for name in names if not name.isprintable() or "/" in name or name.startswith(".") or not name]
    if repeated or unfit:
        raise DataError("E-CONV-01", found=", ".join(map(repr, (repeated or unfit)[:10])))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the temporary folder, so that a second conversion to the same target does not take it for a left-over."""
    with exclusive(folder):
        yield
        (folder / ".lock").unlink(missing_ok=True)


def sweep(target: Path) -> None:
    """Remove what killed conversions to the same target left behind.

    Raises:
        ResourceError: ``E-LOCK-01`` when such a folder belongs to a conversion that is still running.
    """
    for left_over in target.parent.glob(f"{TEMPORARY_MARK}*-{target.name}"):
        with exclusive(left_over):
            shutil.rmtree(left_over, ignore_errors=True)


def _faults(outcomes: list[Outcome[None]]) -> tuple[Skipped, ...]:
    """The cases that failed, and why; a full disk is raised."""
    faults = []
    for outcome in outcomes:
        error = outcome.error
        if isinstance(error, ResourceError):
            # A full disk is no fault of the case.
            raise error
        if error is not None:
            reason = f"{error.what} ({error.found})" if error.found else error.what
            fix = f"; {error.fix}" if error.code == "E-GEO-02" else ""
            faults.append(Skipped(outcome.name, error.code, reason + fix))
    return tuple(faults)


def _limited(ours: SamoraJson, skipped: Collection[str]) -> SamoraJson:
    """A published split without the cases that were skipped."""
    split = ours.published_split
    if split is None:
        return ours
    train, test = (tuple(name for name in names if name not in skipped) for names in (split.train, split.test))
    return replace(ours, published_split=PublishedSplit(train, test))


def _fault(code: str, case: CaseSource, what: str, found: str, expected: str) -> DataError:
    return DataError(code, f'the case "{case.name}" {what}', found=found, expected=expected)


def join_survey(
    survey: Survey, target: Path, converter: str, source: str, *, overwrite: bool = False, workers: int = 1
) -> ConversionReport:
    """Write the unlabelled cases of ``survey`` to imagesUn of the raw dataset ``target``.

    The report goes to conversion_SOURCE.json beside the dataset's own.

    Raises:
        DataError: ``E-CONV-01`` unfit names, ``E-CONV-02`` no usable case, ``E-CONV-04`` names that the dataset has
            already, ``E-CHAN-05`` channels that it does not have.
        ResourceError: ``E-DISK-01``, or ``E-LOCK-01`` while another process converts to the same target.
    """
    check_names(survey)
    dataset = read_dataset(target)
    _check_fit(survey, dataset)
    sweep(target)
    folder = target.parent / f"{TEMPORARY_MARK}{secrets.token_hex(4)}-{target.name}"
    try:
        with alone(folder):
            writer = CaseWriter(replace(survey, description=dataset.description), folder, folder)
            report = writer.write_all(f"adding to {target.name}", converter, source, workers)
            added = _move(folder / "imagesUn", target / "imagesUn", overwrite)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = replace(report, notes=(*report.notes, f"{added} of the files were not in {target.name} yet"))
    write_json(report, target / f"conversion_{Path(source).resolve().name}.json")
    return report


def _move(source: Path, target: Path, overwrite: bool) -> int:
    """Move all files, and return how many were new or changed."""
    target.mkdir(exist_ok=True)
    files = sorted(source.iterdir())
    present = [path.name for path in files if (target / path.name).exists()]
    changed = [name for name in present if digest_file(source / name) != digest_file(target / name)]
    if changed and not overwrite:
        raise _names_taken(target.parent.name, "other", changed, "; --overwrite replaces the scans")
    new = [path for path in files if path.name not in present or path.name in changed]
    for path in new:
        path.replace(target / path.name)
    return len(new)


def _check_fit(survey: Survey, dataset: RawDataset) -> None:
    """Refuse scans of other channels than the dataset's, and names that its labelled or test scans have."""
    given, known = survey.description.channel_names, dataset.description.channel_names
    if given and [name.lower() for name in given.values()] != [name.lower() for name in known.values()]:
        found, expected = ", ".join(given.values()), ", ".join(known.values())
        raise DataError("E-CHAN-05", dataset=dataset, found=found, expected=expected)
    if taken := sorted({*survey.names("Un")} & {*dataset.training(), *dataset.test()}):
        raise _names_taken(dataset.folder.name, "labelled or test", taken, "")


def _names_taken(dataset: str, which: str, names: list[str], otherwise: str) -> DataError:
    return DataError("E-CONV-04", dataset=dataset, which=which, otherwise=otherwise, found=", ".join(names[:10]))
