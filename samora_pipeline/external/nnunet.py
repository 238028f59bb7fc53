"""nnU-Net v2, the user's own installation: planned, trained on all labelled cases, and predicting the scored ones."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from samora_pipeline.errors import AssetError
from samora_pipeline.external.runner import Words, Workplace
from samora_pipeline.files import write_text

PLAN, TRAIN, PREDICT = "nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict"
# The name of a preset: the planner, and the plans that it writes.
PRESETS = {
    "default": ("ExperimentPlanner", "nnUNetPlans"),
    "resenc_m": ("nnUNetPlannerResEncM", "nnUNetResEncUNetMPlans"),
    "resenc_l": ("nnUNetPlannerResEncL", "nnUNetResEncUNetLPlans"),
    "resenc_xl": ("nnUNetPlannerResEncXL", "nnUNetResEncUNetXLPlans"),
}
_FOLD = "0"
_VERSION = "import importlib.metadata as m; print(m.version('nnunetv2'))"


@dataclass(frozen=True)
class NnunetRunner:
    """``programs``: the bin folder of its environment; ``trainers``: a folder with trainer classes of one's own.

    Its only fold trains on every labelled case and validates on the first of them, so that it repeats the prediction
    of one case at the end and not of all; the last checkpoint predicts. Its training is not seeded.

    Raises:
        AssetError: ``E-EXT-02`` its commands are not there.
    """

    programs: Path
    configuration: str = "2d"
    preset: str = "default"
    trainer: str = "nnUNetTrainer"
    trainers: Path | None = None
    device: str = "cuda"

    method: ClassVar[str] = "nnunet"
    predicts_last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        missing = [name for name in (PLAN, TRAIN, PREDICT) if not os.access(self.programs / name, os.X_OK)]
        if missing:
            raise AssetError("E-EXT-02", found=f"no {', '.join(missing)} in {self.programs}")

    def record(self) -> dict[str, Any]:
        """Configuration, preset, trainer and the version of nnU-Net."""
        python = self.programs / "python"
        version = "unknown"
        if os.access(python, os.X_OK):
            asked = subprocess.run([python, "-c", _VERSION], capture_output=True, text=True, check=False)
            version = asked.stdout.strip() or version
        names = {"configuration": self.configuration, "preset": self.preset, "trainer": self.trainer}
        return {**names, "nnunetv2": version}

    def environment(self, place: Workplace) -> dict[str, str]:
        """Its three folders; on a CPU no processes of its own, because they would not fit beside each other."""
        folders = {f"nnUNet_{name}": str(place.folder.resolve() / name) for name in ("raw", "preprocessed", "results")}
        alone = {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1"} if self.device == "cpu" else {}
        own = {} if self.trainers is None else {"nnUNet_extTrainer": str(self.trainers.resolve())}
        return {**folders, **own, **alone, "nnUNet_compile": "f"}

    def commands(self, place: Workplace) -> Iterator[Words]:
        """Plan, train until its schedule ends, and predict; what is there already is left out or gone on with."""
        planner, plans = PRESETS[self.preset]
        number = place.dataset.removeprefix("Dataset").partition("_")[0]
        prepared = place.folder / "preprocessed" / place.dataset
        split = [{"train": list(place.cases), "val": [place.cases[0]]}]
        if not (prepared / f"{plans}.json").is_file() or not any(prepared.glob(f"*_{self.configuration}")):
            write_text(place.raw / "splits_final.json", json.dumps(split, indent=2) + "\n")
            yield self._words(PLAN, "-d", number, "-c", self.configuration, "-pl", planner, "-npfp", "1", "-np", "1")
        trained = place.folder / "results" / place.dataset / f"{self.trainer}__{plans}__{self.configuration}"
        common = ("-tr", self.trainer, "-p", plans, "-device", self.device)
        checkpoint = trained / f"fold_{_FOLD}" / "checkpoint_final.pth"
        if not checkpoint.is_file():
            goes_on = ("--c",) * checkpoint.with_name("checkpoint_latest.pth").is_file()
            yield self._words(TRAIN, number, self.configuration, _FOLD, *common, *goes_on)
        places = ("-i", str(place.images), "-o", str(place.predictions), "-d", number, "-c", self.configuration)
        yield self._words(PREDICT, *places, "-f", _FOLD, *common, "-npp", "1", "-nps", "1", "--continue_prediction")

    def _words(self, program: str, *words: str) -> Words:
        return [str(self.programs / program), *words]
