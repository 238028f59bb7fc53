"""Conversion of sources of scans to raw datasets in nnU-Net's layout."""

from pathlib import Path
from typing import Any


def convert(*folders: str | Path, dataset: str | None = None, **arguments: Any) -> Path:
    """Convert one's own scans, or a known source, and return the folder of the raw dataset.

    Args:
        folders: a folder of images and one of label maps, or one of both.
        dataset: in their place, the name of a converter: ``Synapse``, ``LA``, ``Phantom``, ...
        arguments: the options of ``samora_convert`` by their names: ``name="Liver"``, ``label_names=["liver"]``,
            ``source="downloads/RawData"``, ``root=...``.

    Raises:
        FailedCasesError: ``E-CASE-05`` some cases were skipped; the others are converted.
        SamoraError: whatever else ``samora_convert`` refuses.
    """
    from dataset_conversion.cli import convert_source, parser_for
    from samora_pipeline.calls import call, words_of
    from samora_pipeline.errors import FailedCasesError

    first = [str(folder) for folder in folders] if dataset is None else ["-d", dataset]
    parser, words = parser_for(first)
    path, skipped = call(parser, convert_source, [*words, *words_of(parser, arguments)])
    if skipped:
        raise FailedCasesError("E-CASE-05", prog=parser.prog, found=f"{skipped} cases, named in {path}/conversion.json")
    return path
