"""``samora_pipeline.predict``: samora_predict from Python."""

from pathlib import Path
from typing import Any

from samora_pipeline.calls import call, words_of
from samora_pipeline.inference.cli import build_parser, predict_command


def predict(input: str | Path, output: str | Path, model: str | Path | None = None, **arguments: Any) -> Path:  # noqa: A002
    """Write a label map for each image; return the folder they are in.

    Args:
        input: a folder of images or of DICOM series, or one file.
        output: folder for the label maps.
        model: a run by its path or any part of its name, or a packed model; None: the only trained run.
        arguments: the options of ``samora_predict`` by their names: ``tta=True``, ``folds=[0, 1]``, ``device="cpu"``,
            ``save_uncertainty=True``, ``root=...``.

    Raises:
        FailedCasesError: ``E-CASE-05`` some images could not be predicted; the others are.
        SamoraError: whatever else ``samora_predict`` refuses.
    """
    parser = build_parser()
    call(parser, predict_command, words_of(parser, {"images": input, "output": output, "model": model, **arguments}))
    return Path(output)
