"""The assertion that nothing was learned or chosen on scored scans, by the digests of their voxels.

``samora_train`` refuses leaks by itself; this looks again at what a finished run says it used.
"""

from __future__ import annotations

from pathlib import Path

from samora_pipeline.contracts.fingerprint import FINGERPRINT_FILE, Fingerprint
from samora_pipeline.contracts.json_io import read_json, read_object
from samora_pipeline.contracts.leakage import telling_digests
from samora_pipeline.contracts.pool import POOLS_FOLDER, read_pool
from samora_pipeline.contracts.run import CONFIG_FILE, RunConfig
from samora_pipeline.errors import DataError
from samora_pipeline.paths import Roots

_PRETRAINING = "pretraining"
_POSTPROCESSING = "postprocessing.json"


def require_unseen(fold: Path, roots: Roots) -> None:
    """Compare the scored scans of a fold folder with its labelled selection and the slices of its pool.

    Raises:
        DataError: ``E-STUDY-06`` naming what was seen.
    """
    config = read_json(RunConfig, fold / CONFIG_FILE)
    cases = read_json(Fingerprint, roots.preprocessed / config.dataset / FINGERPRINT_FILE).cases
    scored = {digest: name for name in config.scored for digest in telling_digests(cases[name])}
    used = {digest: f"{name} (labelled)" for name in config.selection.cases for digest in telling_digests(cases[name])}
    if config.pool.key:
        manifest = read_pool(roots.results / config.dataset / _PRETRAINING / POOLS_FOLDER / f"{config.pool.key}.json")
        for dataset in manifest.datasets.values():
            for name, case in dataset.cases.items():
                used |= dict.fromkeys(case.voxel_digests, f"{name} (stage 1)")
    chosen = _chosen_on(fold) & set(config.scored)
    seen = [f"{used[digest]} is {name}" for digest, name in scored.items() if digest in used]
    seen += [f"{name} (post-processing)" for name in sorted(chosen)]
    if seen or config.allowed_leaks or config.pool.transductive:
        raise DataError(
            "E-STUDY-06",
            f"scored scans were seen before they were scored by {fold.parent.name}",
            found="; ".join(seen) or "a run that was allowed to see them",
            expected="scans that nothing was learned from or chosen on",
        )


def _chosen_on(fold: Path) -> set[str]:
    """The cases that post-processing was chosen on; none where a run has no post-processing."""
    path = fold / _POSTPROCESSING
    return set(read_object(path)["held_out"]) if path.is_file() else set()
