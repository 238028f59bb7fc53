"""Predictions of a finished run as proposals, and the slices that it is unsure about; killed, they go on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from samora_pipeline.contracts.dataset import RawCase
from samora_pipeline.contracts.labels import BACKGROUND
from samora_pipeline.contracts.run import CONFIG_FILE, RunConfig
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.volume import label_array
from samora_pipeline.inference.case import InputCase
from samora_pipeline.inference.job import output_files, predict_cases
from samora_pipeline.inference.predictor import Predictor
from samora_pipeline.inference.record import OutputFolder, model_record, prediction_record
from samora_pipeline.inference.runs import TrainedRun, named_run
from samora_pipeline.labelling.scans import LabelledDataset, Labels, file_axis
from samora_pipeline.labelling.scoring import ScoredSlice, score_slices
from samora_pipeline.paths import Roots

_ENDING = ".nii.gz"


@dataclass(frozen=True)
class Proposer:
    """A finished run that proposes labels; predictions lie in ``folder`` while a round is being made."""

    trained: TrainedRun
    configs: tuple[RunConfig, ...]
    folder: Path

    @property
    def scored(self) -> frozenset[str]:
        """The cases that its folds are scored on; where it is scored on its training cases, none."""
        return frozenset(case for one in self.configs for case in one.scored if case not in one.selection.cases)

    def values(self) -> dict[int, str]:
        """The values that it predicts, with their names."""
        labels = self.configs[0].labels
        named = (
            zip(labels.region_order, labels.names, strict=True)
            if labels.regions
            else ((values[0], name) for name, values in labels.foreground)
        )
        return {0: BACKGROUND, **dict(named)}

    def predict(self, cases: Mapping[str, RawCase], weights: Path, device: str | None) -> None:
        """Predict the cases that are not predicted yet, with the entropy of each voxel.

        Raises:
            DataError: ``E-ROUND-08`` cases that could not be predicted; whatever loading the run raises.
        """
        folds = self.trained.folds
        record = model_record(self.trained.folder, folds, self.configs[0].base_digest, save_uncertainty=True)
        output = OutputFolder(self.folder, record, (1, 1), resume=True)
        inputs = [InputCase(name, case.channels, _ENDING, wanted=len(case.channels)) for name, case in cases.items()]
        files = {one.name: output_files(one, self.folder, uncertainty=True) for one in inputs}
        done = {one.name for one in inputs if output.finished(one.name, one.channels, files[one.name].paths)}
        missing = [(one, files[one.name]) for one in inputs if one.name not in done]
        if not missing:
            return
        predictor = Predictor.load(self.trained.folder, weights_folder=weights, device=device, allow_code=True)
        output.start(prediction_record(predictor, record, self.configs[0]), done, [one.name for one, _ in missing])
        failures = predict_cases(predictor, missing, output)
        output.conclude()
        if failures:
            first = next(iter(failures.items()))
            raise DataError("E-ROUND-08", number=len(failures), found=f"{first[0]}: {first[1].code} {first[1].what}")

    def labels(self, case: str) -> Labels:
        """The predicted values of a case [X, Y, Z]."""
        return label_array(read_volume(self.folder / f"{case}{_ENDING}"))

    def scores(self, cases: Mapping[str, RawCase], dataset: LabelledDataset) -> list[ScoredSlice]:
        """The scores of all slices of the cases that were predicted."""
        found = []
        for name, case in cases.items():
            files = output_files(InputCase(name, case.channels, _ENDING), self.folder, uncertainty=True)
            if files.uncertainty is not None:
                percent = label_array(read_volume(files.uncertainty))
                found += score_slices(name, self.labels(name), percent, file_axis(case, dataset.plane))
        return found


def open_proposer(named: str, dataset: LabelledDataset, folder: Path, roots: Roots, *, allow_code: bool) -> Proposer:
    """The finished run called ``named``, all of its folds averaged.

    Raises:
        AssetError: ``E-RUN-01`` no such run. DataError: ``E-ROUND-05`` it has other labels than the dataset.
    """
    trained = named_run(named, roots.results)
    configs = tuple(read_run_config(fold / CONFIG_FILE, allow_code=allow_code) for fold in trained.folds.values())
    own, theirs = dataset.scheme.names, configs[0].labels.names
    if own != theirs:
        raise DataError("E-ROUND-05", run=trained.label, found=", ".join(theirs), expected=", ".join(own))
    return Proposer(trained, configs, folder)
