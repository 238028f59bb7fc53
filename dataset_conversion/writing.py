"""From a survey to a raw dataset on disk: each case is loaded, checked and placed; a faulty one is skipped.

The checks here are light (readable, finite, channels and labels on one grid, label values declared); planning does
the full ones. All is written to a temporary folder that gets its name at the very end.

Where labels and image have one shape but headers that disagree, the case is skipped, with an image of the labels laid
on the scan by index; a case that is right there can be made to take over the header of its image.
"""

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dataset_conversion.survey import CaseSource, ConversionReport, LoadedCase, Skipped, Survey, counted, shortened
from samora_pipeline.contracts.dataset import PublishedSplit, SamoraJson, write_dataset
from samora_pipeline.contracts.failures import FAILURES_FILE, Failure, printable, write_failures
from samora_pipeline.contracts.json_io import write_json
from samora_pipeline.errors import ERRORS, DataError, ResourceError, SamoraError
from samora_pipeline.files import TEMPORARY_MARK, atomic_folder, exclusive
from samora_pipeline.imaging.files import write_labels, write_volume
from samora_pipeline.imaging.inputs import fault_of_name, repeated
from samora_pipeline.imaging.volume import Volume, label_array, on_grid_of, require_finite
from samora_pipeline.parallel import SERIAL, Engine, Outcome

REPORT_FILE = "conversion.json"
OVERLAYS = "overlays"


def write_survey(
    survey: Survey, target: Path, converter: str, source: str, *, adopt: Collection[str] = (), engine: Engine = SERIAL
) -> ConversionReport:
    """Write the cases of ``survey`` to the folder ``target``, which appears (or is replaced) when all is done.

    All volumes of the cases in ``adopt`` (``all``: of every case) take over the header of their first channel.

    Raises:
        DataError: ``E-CONV-02`` no case is usable, ``E-CONV-03`` a name in ``adopt`` that no case has.
        ResourceError: ``E-DISK-01``, or ``E-LOCK-01`` while another process converts to the same target.
    """
    adopted = _adopted(survey, adopt)
    sweep(target)
    shutil.rmtree(target.parent / OVERLAYS / target.name, ignore_errors=True)
    with atomic_folder(target) as folder, alone(folder):
        writer = CaseWriter(survey, folder, target.parent / OVERLAYS / target.name, adopted)
        report, unknown = writer.write_all(f"converting {target.name}", converter, source, engine)
        description = replace(survey.description, numTraining=report.training)
        ours = _limited(survey.ours, {fault.case for fault in report.skipped})
        if unknown and ours.spacing_known:
            ours = replace(ours, spacing_known=False)
            what = "cases state no voxel spacing, so distances of the whole dataset come in voxels"
            report = replace(report, notes=report.notes + counted(unknown, what))
        write_dataset(folder, description, ours)
        moved = tuple(f"{name} took over the header of its image (asked)" for name in sorted(adopted))
        report = replace(report, notes=report.notes + moved)
        write_json(report, folder / REPORT_FILE)
        write_failures(failures_of(report), folder / FAILURES_FILE)
    return report


@dataclass(frozen=True)
class CaseWriter:
    """Loads, checks and places one case after the other in ``folder``; pictures of doubtful ones go to ``overlays``.

    ``in_mm``: cases that state no spacing are faulty.
    """

    survey: Survey
    folder: Path
    overlays: Path
    adopt: frozenset[str] = frozenset()
    in_mm: bool = False

    def write_all(
        self, what: str, converter: str, source: str, engine: Engine
    ) -> tuple[ConversionReport, tuple[str, ...]]:
        """Write every case, say what became of them, and name those that state no spacing.

        ``what`` is for progress, the rest for the report. Names that repeat or cannot be file names concern their cases
        alone.

        Raises:
            DataError: ``E-CONV-02`` no case of ``source`` is usable.
            ResourceError: ``E-DISK-01``.
        """
        unusable = faults_of_names(self.survey.names("Tr", "Ts", "Un"))
        items = [(case.name, case) for case in self.survey.cases if case.name not in unusable]
        # What is sent with each case must not grow with their number.
        alone = replace(self, survey=replace(self.survey, cases=()))
        outcomes = engine.map(alone.write, items, what)
        skipped = (*(_skipped(name, error) for name, error in unusable.items()), *_faults(outcomes))
        gone = {*unusable, *(outcome.name for outcome in outcomes if outcome.error is not None)}
        parts = [case.part for case in self.survey.cases if case.name not in gone]
        if parts:
            counts = (parts.count("Tr"), parts.count("Ts"), parts.count("Un"))
            unknown = tuple(outcome.name for outcome in outcomes if outcome.result is False)
            return ConversionReport(converter, source, *counts, skipped, self.survey.notes), unknown
        found = "\n    ".join(f"{fault.case}: {fault.code} {fault.reason}" for fault in skipped[:10])
        raise DataError("E-CONV-02", source=source, found=found or "no case at all")

    def write(self, case: CaseSource) -> bool:
        """Write one case and return whether it states its spacing.

        Raises:
            DataError: the case is faulty; nothing of it has been written.
        """
        try:
            loaded = case.load()
        except (OSError, UnicodeError) as error:
            what = f"the case {case.name} cannot be read"
            raise DataError("E-IMG-07", what, found=str(error), fix=ERRORS["E-IMG-07"].fix) from error
        loaded = _adopted_header(loaded) if case.name in self.adopt else self._on_one_grid(case, loaded)
        self._check(case, loaded)
        ending = self.survey.description.file_ending
        for number, volume in enumerate(loaded.channels):
            path = self.folder / f"images{case.part}" / f"{case.name}_{number:04d}{ending}"
            if not self._place(loaded, volume, path):
                self._write_volume(volume, path)
        if loaded.label is not None:
            path = self.folder / f"labels{case.part}" / f"{case.name}{ending}"
            if not self._place(loaded, loaded.label, path):
                write_labels(path, label_array(loaded.label), loaded.label)
        return loaded.channels[0].grid.spacing_known

    def _write_volume(self, volume: Volume, path: Path) -> None:
        try:
            write_volume(path, volume.array, volume.grid)
        except ValueError as error:
            raise DataError("E-IMG-03", path=volume.path, found=str(error), expected="values of 32 bits") from error

    def _check(self, case: CaseSource, loaded: LoadedCase) -> None:
        expected = len(self.survey.description.channel_names)
        if len(loaded.channels) != expected:
            raise _fault("E-CHAN-01", case, "has a wrong number of channels", f"{len(loaded.channels)}", f"{expected}")
        volumes = (*loaded.channels, *([loaded.label] if loaded.label else []))
        if len({volume.array.shape for volume in volumes}) > 1 or volumes[0].array.ndim != 3:
            found = ", ".join(f"{volume.path.name} {volume.array.shape}" for volume in volumes)
            raise _fault("E-GEO-01", case, "has images or labels of different shapes", found, "one 3-D shape")
        for volume in loaded.channels:
            require_finite(volume)
            if self.in_mm and not volume.grid.spacing_known:
                found, otherwise = str(volume.path), "; or convert the scans to a dataset of their own"
                why = "the dataset that it joins is in mm"
                raise DataError("E-GEO-03", path=volume.path, why=why, otherwise=otherwise, found=found)
        if loaded.label is not None:
            self._check_labels(case, loaded.label)
        elif case.part == "Tr":
            raise _fault("E-LABEL-03", case, "has no label map", "an image alone", "labels for each training case")

    def _on_one_grid(self, case: CaseSource, loaded: LoadedCase) -> LoadedCase:
        """The case with all its volumes in the order of axes of the first one; what was reordered is written anew."""
        image, label = loaded.channels[0], loaded.label
        try:
            channels = (image, *(on_grid_of(image, other) for other in loaded.channels[1:]))
            placed = on_grid_of(image, label) if label else None
        except DataError as error:
            if error.code == "E-GEO-01":
                raise
            fix = f"repair the headers at their source, or: --adopt-image-header {case.name}"
            if label is not None:
                # Drawing needs a plotting library, and hardly any source needs a drawing.
                from samora_pipeline.reporting.overlays import draw_label_check

                picture = self.overlays / f"{case.name}.png"
                draw_label_check(picture, image, label, f"{case.name}: labels laid on the image, headers ignored")
                fix += f"  but only if {picture} is right"
            raise DataError(error.code, error.what, found=error.found, expected=error.expected, fix=fix) from error
        pairs = zip((*loaded.channels, label), (*channels, placed), strict=True)
        moved = {old.path for old, new in pairs if old is not None and new is not old}
        return LoadedCase(channels, placed, loaded.unchanged - moved)

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


def _adopted_header(loaded: LoadedCase) -> LoadedCase:
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


def faults_of_names(names: Collection[str]) -> dict[str, DataError]:
    """The faulty names: ``E-INPUT-02`` those that repeat, ``E-CASE-02`` those that cannot be of files."""
    faults = {
        name: DataError("E-INPUT-02", case=name, found=f"{name}, several times") for name in sorted(repeated(names))
    }
    return faults | {name: fault for name in names if (fault := fault_of_name(name)) is not None}


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


def _faults(outcomes: list[Outcome[bool]]) -> tuple[Skipped, ...]:
    """The cases that failed, and why; a full disk is raised."""
    faults = []
    for outcome in outcomes:
        error = outcome.error
        if isinstance(error, ResourceError):
            # A full disk is no fault of the case.
            raise error
        if error is not None:
            faults.append(_skipped(outcome.name, error))
    return tuple(faults)


def _skipped(case: str, error: SamoraError) -> Skipped:
    reason = f"{error.what} ({error.found})" if error.found else error.what
    fix = f"; {error.fix}" if error.code == "E-GEO-02" else ""
    return Skipped(printable(case), error.code, reason + fix)


def failures_of(report: ConversionReport) -> dict[str, Failure]:
    """The skipped cases as failures.json has them."""
    return {one.case: Failure(one.code, one.reason) for one in report.skipped}


def _limited(ours: SamoraJson, skipped: Collection[str]) -> SamoraJson:
    """A published split without the cases that were skipped."""
    split = ours.published_split
    if split is None:
        return ours
    train, test = (tuple(name for name in names if name not in skipped) for names in (split.train, split.test))
    return replace(ours, published_split=PublishedSplit(train, test))


def _fault(code: str, case: CaseSource, what: str, found: str, expected: str) -> DataError:
    return DataError(code, f'the case "{case.name}" {what}', found=found, expected=expected)
