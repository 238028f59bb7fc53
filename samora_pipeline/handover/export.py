"""From a trained run to a folder or a zip that others can use: weights, plan, terms, model card and digests.

An exported config contains no case identifiers and no folders: it has pseudonyms, the same in all folds.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.contracts.dataset import SamoraJson, read_dataset
from samora_pipeline.contracts.json_io import parse, read_json, sealed, to_plain
from samora_pipeline.contracts.postprocessing import POSTPROCESSING_FILE, read_postprocessing
from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT, SUMMARY_FILE, RunConfig
from samora_pipeline.contracts.run_reader import named_code, read_run_config
from samora_pipeline.contracts.scores import EXPORTED_SCORES_FILE, ExportedScores, Summary
from samora_pipeline.contracts.timing import TIMING_FILE, Timing
from samora_pipeline.errors import AssetError, DataError, UsageError
from samora_pipeline.evaluation.run_scores import read_run
from samora_pipeline.exported import contents
from samora_pipeline.exported.contents import DigestsJson, FileDigest, ModelJson
from samora_pipeline.files import atomic_folder, atomic_path, digest_file, digest_json, sweep
from samora_pipeline.handover import texts
from samora_pipeline.inference.runs import TrainedRun
from samora_pipeline.paths import Roots
from samora_pipeline.reproducibility import snapshot

_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNFIT_FOLDS = "E-EVAL-05"
_LISTS = ("scored", "excluded_leaks", "allowed_leaks", "held_out")
_LISTS_OF = (("selection", "cases"), ("selection", "slices"), ("pool", "excluded"), ("pool", "copies"))

Content = bytes | Path
"""what stands under a name: the bytes of a text, or the file whose bytes are copied"""


@dataclass(frozen=True)
class Export:
    """The files of an export by name, and its description."""

    files: dict[str, Content]
    model: ModelJson

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(_size(content) for content in self.files.values())


def collect(run: TrainedRun, folds: Sequence[str], roots: Roots, *, with_base: bool) -> Export:
    """Gather what belongs to an export; nothing is written, and nothing that the run names as code is imported.

    Raises:
        DataError: ``E-EXPORT-02`` folds with a name that cannot stand in an export, ``E-WEIGHT-09`` a base encoder
            with another digest, ``E-CKPT-..`` a damaged checkpoint, ``E-JSON-..`` records that cannot be read.
        AssetError: ``E-WEIGHT-05`` a base encoder that should be part of it is not there.
    """
    folders = {fold: run.folds[fold] for fold in folds}
    configs = {fold: read_run_config(folder / CONFIG_FILE, allow_code=True) for fold, folder in folders.items()}
    bases, base_files = texts.shared_bases(configs, folders, roots.weights, with_base=with_base)
    names = _pseudonyms(configs.values())
    hidden = {fold: _without_names(config, names) for fold, config in configs.items()}
    files: dict[str, Content] = dict(base_files)
    for fold, folder in folders.items():
        files |= {f"fold_{fold}/{name}": content for name, content in _fold(folder, hidden[fold], names).items()}
    model = ModelJson(
        dataset=hidden[folds[0]].dataset,
        run=run.folder.name,
        folds=tuple(folds),
        bases=bases,
        code=named_code([to_plain(config) for config in hidden.values()]),
        warnings=tuple(dict.fromkeys(warning for config in hidden.values() for warning in config.warnings)),
        finished=max((folder / FINAL_CHECKPOINT).stat().st_mtime for folder in folders.values()),
        versions=snapshot(),
    )
    files |= _texts(run, folders, tuple(hidden.values()), model, roots)
    _check_names(files, f"{model.dataset}/{model.run}")
    digests = DigestsJson({name: _digest(content) for name, content in sorted(files.items())})
    return Export({**files, contents.DIGESTS_FILE: _json(digests)}, model)


def write(export: Export, target: Path) -> None:
    """Write an export to a new folder, or to a new file that ends in ``.zip``. Equal exports give equal zips.

    Raises:
        DataError: ``E-EXPORT-01`` when the target is there already.
        ResourceError: ``E-DISK-01``.
    """
    if target.exists():
        raise DataError("E-EXPORT-01", found=str(target))
    sweep(target.parent, target.name)
    if target.suffix.lower() == ".zip":
        with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, content in sorted(export.files.items()):
                _pack(archive, name, content)
        return
    with atomic_folder(target) as folder:
        for name, content in export.files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, path)
            else:
                path.write_bytes(content)


def _pack(archive: zipfile.ZipFile, name: str, content: Content) -> None:
    """Weights are stored as they are, because they do not shrink; only texts are compressed."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o644 << 16
    if isinstance(content, Path):
        entry.file_size = _size(content)
        with content.open("rb") as source, archive.open(entry, "w") as stored:
            shutil.copyfileobj(source, stored, 1 << 20)
    else:
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, content)


def _fold(folder: Path, config: RunConfig, names: dict[str, str]) -> dict[str, Content]:
    """What is exported of a fold, by its name in the fold's folder; its checkpoint is read, to see that it is whole."""
    load_checkpoint(folder / FINAL_CHECKPOINT)
    files: dict[str, Content] = {CONFIG_FILE: _json(config), FINAL_CHECKPOINT: folder / FINAL_CHECKPOINT}
    chosen = folder / POSTPROCESSING_FILE
    if chosen.is_file():
        record = read_postprocessing(chosen)
        # A case that no config names gets no pseudonym and is left out.
        hidden = tuple(sorted(names[case] for case in record.held_out if case in names))
        files[POSTPROCESSING_FILE] = _json(sealed(replace(record, held_out=hidden)))
    if not (folder / SUMMARY_FILE).exists():
        # Not scored: then samora_predict --list has nothing to show.
        return files
    summary = read_json(Summary, folder / SUMMARY_FILE)
    scores = ExportedScores(summary.foreground_mean.Dice, summary.n, summary.bootstrap.n)
    return files | {EXPORTED_SCORES_FILE: _json(scores)}


def _texts(
    run: TrainedRun, folders: dict[str, Path], configs: tuple[RunConfig, ...], model: ModelJson, roots: Roots
) -> dict[str, Content]:
    data = _description(roots.raw / model.dataset)
    terms = texts.terms_of(configs, model.bases, data)
    timed = (folder / TIMING_FILE for folder in folders.values())
    timings = tuple(read_json(Timing, path) for path in timed if path.is_file())
    summary, remark = _summary(run, list(folders))
    page = texts.model_card(texts.CardFacts(model, configs, summary, timings, tuple(terms), remark=remark))
    return {
        contents.MODEL_FILE: _json(model),
        contents.MODEL_CARD_FILE: page.encode(),
        contents.LICENCES_FILE: texts.licences_page(terms).encode(),
        contents.CITATIONS_FILE: texts.citations_page(texts.citations_of(configs, data)).encode(),
    }


def _summary(run: TrainedRun, folds: Sequence[str]) -> tuple[Summary | None, str]:
    """The scores of the exported folds, without any case; or None and a sentence."""
    if len(folds) not in (1, len(run.folds)):
        return None, "Scores are summed up over one fold or over all, and this export holds neither."
    place = run.folder if len(folds) == len(run.folds) > 1 else run.folds[folds[0]]
    try:
        summary = read_run(str(place), run.folder.parent.parent, allow_code=True).summary
    except (AssetError, UsageError) as error:
        # Not scored, or by different rules; scores that cannot be read are no such thing.
        return None, f"({error.what})"
    except DataError as error:
        if error.code != _UNFIT_FOLDS:
            raise
        return None, f"({error.what})"
    return replace(summary, metric_per_case=(), unscored_predictions=()), ""


def _description(raw: Path) -> SamoraJson | None:
    """What the raw dataset states about terms and citation, where it is still there."""
    return read_dataset(raw).ours if (raw / "dataset.json").exists() else None


def _check_names(files: dict[str, Content], place: str) -> None:
    strange = [name for name in files if contents.kind_of(name) is None]
    if strange or not contents.RUN_PLACE.fullmatch(place):
        raise DataError("E-EXPORT-02", found=", ".join(strange) or place)


def _digest(content: Content) -> FileDigest:
    digest = digest_file(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
    return FileDigest(_size(content), digest)


def _size(content: Content) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _json(value: Any) -> bytes:
    return (json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _pseudonyms(configs: Iterable[RunConfig]) -> dict[str, str]:
    """A pseudonym for every case that the configs name; its number follows a digest and gives no order away."""
    names = {name for config in configs for holder, key in _case_lists(to_plain(config)) for name in holder[key]}
    ordered = sorted(names, key=lambda name: digest_json(["case", name]))
    return {name: f"pseudonym_{number:04d}" for number, name in enumerate(ordered, start=1)}


def _without_names(config: RunConfig, names: dict[str, str]) -> RunConfig:
    """The config with pseudonyms in place of cases, and with file names in place of paths."""
    plain = to_plain(config)
    for holder, key in _case_lists(plain):
        cases = holder[key]
        hidden = sorted((names[case], case) for case in cases)
        holder[key] = (
            {name: cases[case] for name, case in hidden} if isinstance(cases, dict) else [n for n, _ in hidden]
        )
    # What decides a prediction stays to the letter: the checkpoint belongs to it.
    bare = {**_without_folders(plain), "model": plain["model"], "labels": plain["labels"]}
    bare["plans"]["channel_names"] = plain["plans"]["channel_names"]
    return parse(RunConfig, bare, "the exported config")


def _case_lists(plain: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every object and key in a plain config under which case identifiers stand, in a list or as keys."""
    yield from ((plain, key) for key in _LISTS)
    yield from ((plain[part], key) for part, key in _LISTS_OF)
    yield from ((plain["pool"]["cases"], dataset) for dataset in plain["pool"]["cases"])
    behind = (*plain.get("taught_by", ()), plain.get("started_from"))
    yield from ((run, "seen") for run in behind if run)


def _without_folders(plain: Any) -> Any:
    """Plain values in which every text that is a path of either kind of system is its last part."""
    if isinstance(plain, dict):
        return {key: _without_folders(value) for key, value in plain.items()}
    if isinstance(plain, list):
        return [_without_folders(value) for value in plain]
    if not isinstance(plain, str):
        return plain
    absolute = PurePosixPath(plain).is_absolute() or PureWindowsPath(plain).is_absolute()
    relative = any(sign in plain for sign in "/\\") and not any(map(str.isspace, plain))
    return PureWindowsPath(plain).name if absolute or relative else plain
