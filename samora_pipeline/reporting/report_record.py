"""What a run is, for people who want to repeat or to trust it: parameters, settings, plan, seeds, digests, versions."""

from collections.abc import Iterator

import torch

from samora_pipeline.contracts.json_io import read_object, to_plain
from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT, VALIDATION_FOLDER, RunConfig
from samora_pipeline.files import digest_file
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.freezing import Part, account, freeze
from samora_pipeline.reporting.html_blocks import Cell, Note, Section, Table
from samora_pipeline.reporting.report_run import ReportedRun
from samora_pipeline.reporting.report_training import flattened

PARTS_KEY = "trained"
"""in the record of a final checkpoint: the parts that learned from the labels"""
_WHY = ".why"


def record_section(run: ReportedRun, trained: frozenset[Part] | None) -> Section:
    """Everything that determined the run. ``trained`` are the parts that learned from labels, None if unknown."""
    config = run.config
    settings = {record.name: record.settings for record in config.stages}
    blocks = (
        account_table(config, trained),
        *_choices(config),
        Table("identity", "Seeds and digests", ("what", "value"), list(_identity(run))),
        Table("settings", "Settings", ("setting", "value"), _rows(settings), folded=True),
        Table("network", "Network", ("part", "value"), _rows(to_plain(config.model)), folded=True),
        _plan_table(config),
        Table("versions", "Software", ("what", "version"), list(_versions(run)), folded=True),
    )
    unnamed = () if run.scored.summary.folds else (Note("The folds of this run are not named in its scores."),)
    return Section("record", (*blocks, *unnamed))


def account_table(config: RunConfig, trained: frozenset[Part] | None) -> Table:
    """Numbers of parameters by part, as in Table 3 of the paper."""
    # On the meta device a network has shapes and no memory.
    with torch.device("meta"):
        network = build_network(config.model)
    freeze(network, trained or frozenset())
    counts = {part.value.replace("_", " "): pair for part, pair in account(network).items() if sum(pair)}
    counts["all"] = (sum(learned for learned, _ in counts.values()), sum(frozen for _, frozen in counts.values()))
    rows = [
        (name, _counted(learned + frozen), Cell("not recorded") if trained is None else _counted(learned))
        for name, (learned, frozen) in counts.items()
    ]
    notes = ("base: the frozen encoder; experts: LoRA; fusion: what joins the experts in every block.",)
    return Table("account", "Parameters", ("part", "parameters", "learned from labels"), rows, notes=notes)


def _counted(parameters: int) -> Cell:
    return Cell(f"{parameters:,}", float(parameters))


def _identity(run: ReportedRun) -> Iterator[tuple[str, str]]:
    config = run.config
    yield "run", run.label
    yield "recipe", config.recipe
    yield "seed", ", ".join(dict.fromkeys(str(own.seed) for own in run.scored.configs))
    selection = config.selection
    origin = "published list" if selection.published else f"drawn with seed {selection.seed}"
    yield "labelled part", f"{selection.split}, {len(selection.cases)} cases, {origin}"
    if config.base is not None:
        yield "base encoder", f"{config.base.name} ({config.base.origin}), sha256 {config.base.digest}"
    yield "fingerprint of the data", config.plans.fingerprint_digest
    for expert, record in config.experts.items():
        yield f"expert {expert}", f"key {record.key}"
    for level, teacher in config.teachers.items():
        origin = teacher.weights or teacher.origin
        yield f"teacher {level}", f"{teacher.network} from {origin}, {teacher.licence or '-'}"
    for fold, folder in run.folds.items():
        for name in (CONFIG_FILE, FINAL_CHECKPOINT):
            if (folder / name).is_file():
                yield f"{name}, fold {fold}", f"sha256 {digest_file(folder / name)}"


def _choices(config: RunConfig) -> tuple[Table, ...]:
    """What the run chose by itself, with the reasons; nothing where all was typed."""
    rows = [(name, str(choice.value), choice.why) for name, choice in config.choices.items()]
    return (Table("choices", "Chosen by the run", ("setting", "is", "because"), rows),) if rows else ()


def _versions(run: ReportedRun) -> Iterator[tuple[str, str]]:
    """Versions and the commit, from the record of the scored predictions."""
    folders = [folder / VALIDATION_FOLDER for folder in run.folds.values()]
    for path in (path for folder in folders for path in sorted(folder.glob("run*.json"))):
        plain = read_object(path)
        if isinstance(plain, dict):
            yield "device", str(plain.get("device", "-"))
            yield from flattened(plain.get("versions", {}))
            return
    yield "record", "not there"


def _plan_table(config: RunConfig) -> Table:
    rows = [
        (
            name.replace("_", " "),
            "; ".join(": ".join(pair).lstrip(": ") for pair in flattened(own["value"])),
            own["why"],
        )
        for name, own in to_plain(config.plans).items()
        if isinstance(own, dict) and "why" in own
    ]
    return Table("plan", "Plan", ("value", "is", "because"), rows, folded=True)


def _rows(plain: object) -> list[tuple[str, str]]:
    return [pair for pair in flattened(plain) if not pair[0].endswith(_WHY)]
