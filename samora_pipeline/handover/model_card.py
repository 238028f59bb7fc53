"""MODEL_CARD.md: what a model was trained on, what it reached, what it is for, and what nobody has tried yet.

The first lines are the front matter that Hugging Face's hub reads. Every number comes from the run's own records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import starmap

from samora_pipeline.contracts.label_table import label_table
from samora_pipeline.contracts.run import PHANTOM_STAMP, RunConfig
from samora_pipeline.contracts.scores import Interval, Intervals, Summary
from samora_pipeline.contracts.timing import Timing
from samora_pipeline.handover.contents import CITATIONS_FILE, DIGESTS_FILE, LICENCES_FILE, ModelJson
from samora_pipeline.handover.terms import Terms

_FEW_PATIENTS = 10
_NONE = "-"


@dataclass(frozen=True)
class CardFacts:
    """What the card tells of: the record of the export, the configs of its folds, and what is known of them.

    ``summary`` is None where nothing was scored; ``remark`` then says why, where there is more to say.
    """

    model: ModelJson
    configs: tuple[RunConfig, ...]
    summary: Summary | None
    timings: tuple[Timing, ...]
    terms: tuple[Terms, ...]
    remark: str = ""


def model_card(facts: CardFacts) -> str:
    """The card in Markdown."""
    config = facts.configs[0]
    sections = (
        ("Use", _use(facts)),
        ("What it segments", _labels(config)),
        ("Data", _data(facts)),
        ("Network and training", _training(facts)),
        ("Scores", _scores(facts)),
        ("Intended use", _intended(facts)),
        ("Not exercised", "".join(f"- {item}\n" for item in not_exercised(facts))),
        ("Files and terms", _files(facts)),
    )
    stamps = "".join(f"**{stamp}**\n\n" for stamp in facts.model.stamps)
    title = f"# {facts.model.dataset}: {config.trainer}, {config.split}\n\n"
    return _front_matter(facts) + title + stamps + "\n".join(f"## {name}\n\n{text}" for name, text in sections)


def not_exercised(facts: CardFacts) -> list[str]:
    """What this model has not been tried on, told from its records."""
    devices = {timing.device for timing in facts.timings if timing.device}
    items = ["scans of other sites, scanners or protocols than those of the training data"]
    if PHANTOM_STAMP in facts.model.stamps:
        items.append("any real scan: it was trained and scored on synthetic data")
    if not any(device.startswith("cuda") for device in devices):
        items.append(f"a GPU: its last stage ran on {', '.join(sorted(devices)) or 'an unrecorded device'}")
    if len(facts.configs) == 1:
        items.append(f"other folds than {facts.configs[0].fold}, so how much it depends on the split is not known")
    if len({config.seed for config in facts.configs}) == 1:
        items.append(f"other seeds than {facts.configs[0].seed}")
    summary = facts.summary
    if summary is None:
        items.append("scoring: there are no scores of this run")
        return items
    if summary.bootstrap.n < _FEW_PATIENTS:
        items.append(f"more than {summary.bootstrap.n} patients, which cannot support a ranking of methods")
    unseen = [name for key, name in summary.labels.items() if not summary.counts[key].scored]
    if unseen:
        items.append(f"scored cases that show {', '.join(unseen)}")
    return items


def _front_matter(facts: CardFacts) -> str:
    config = facts.configs[0]
    tags = ["medical", "image-segmentation", "samora_pipeline", *(stamp.lower() for stamp in facts.model.stamps)]
    lines = [
        "license: other",
        f"license_name: see {LICENCES_FILE}",
        "library_name: samora_pipeline",
        "pipeline_tag: image-segmentation",
        f"base_model: {config.model.backbone}",
        f"datasets: [{config.dataset}]",
        "metrics: [dice, hausdorff distance 95]",
        f"tags: [{', '.join(tags)}]",
    ]
    return "---\n" + "".join(f"{line}\n" for line in lines) + "---\n\n"


def _use(facts: CardFacts) -> str:
    text = (
        "    samora_import FILE.zip\n"
        f"    samora_predict -i SCANS -o OUT -m {facts.model.dataset}/{facts.model.run}\n\n"
        "or, without importing, `-m FOLDER` with the folder that holds this card. "
    )
    channels = ", ".join(f"_{number:04d} {name}" for number, name in enumerate(facts.configs[0].plans.channel_names))
    text += f"Channels of a case: {channels}.\n"
    for base in facts.model.bases:
        if not base.file:
            text += f"\nIts base encoder is not part of it ({base.why}): {base.name}, sha256 `{base.digest}`.\n"
    return text


def _labels(config: RunConfig) -> str:
    rows = [
        f"| {entry.value} | {entry.name} | #{''.join(f'{value:02X}' for value in entry.colour)} |\n"
        for entry in label_table(config.labels)
    ]
    return "| value | label | colour |\n|---|---|---|\n" + "".join(rows)


def _data(facts: CardFacts) -> str:
    config = facts.configs[0]
    lines = []
    for fold in facts.configs:
        slices = sum(map(len, fold.selection.slices.values()))
        unit = f"{slices} labelled slices of " if slices else ""
        pool = sum(map(len, fold.pool.cases.values()))
        lines.append(
            f"- fold {fold.fold}: {unit}{len(fold.selection.cases)} labelled cases"
            f"{f' ({len(fold.held_out)} more held out for post-processing)' if fold.held_out else ''}, "
            f"{pool} cases without labels, {len(fold.scored)} scored cases\n"
        )
    terms = next(term.licence for term in facts.terms)
    rules = "; ".join(rule.text for rule in config.plans.intensity.value)
    return (
        f"{config.dataset}, label budget `{config.split}`. Terms of the data: {terms}.\n\n{''.join(lines)}\n"
        f"Slices: {config.plans.slice_axis.value}, {config.plans.in_plane.value} to {config.model.input_size} x "
        f"{config.model.input_size} pixels; intensities: {rules}. Names of cases are pseudonyms; no image is part of "
        "this export.\n"
    )


def _training(facts: CardFacts) -> str:
    config = facts.configs[0]
    model, fusion = config.model, config.model.fusion
    rows = [
        ("trainer, recipe", f"{config.trainer}, {config.recipe}"),
        ("base encoder", f"{config.base.name} ({config.base.origin}), sha256 `{config.base.digest}`"),
        ("experts", ", ".join(level.value for level in model.levels) or "none"),
        ("LoRA rank", str(model.lora_rank)),
        ("fusion", ", ".join((fusion.name, *starmap("{} {}".format, fusion.options.items()))) if fusion else "none"),
        ("decoder", model.decoder),
        ("seeds", ", ".join(str(seed) for seed in dict.fromkeys(fold.seed for fold in facts.configs))),
    ]
    rows += [(f"teacher, {level}", _teacher(config, level)) for level in config.teachers]
    rows += [(f"seconds, {stage}", f"{seconds:,.0f}") for stage, seconds in _seconds(facts.timings)]
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def _teacher(config: RunConfig, level: str) -> str:
    teacher = config.teachers[level]
    return f"{teacher.network} from {teacher.weights or 'random weights'}"


def _seconds(timings: Sequence[Timing]) -> Iterator[tuple[str, float]]:
    """Seconds per stage of the first fold that was timed."""
    for stage, timing in timings[0].stages.items() if timings else ():
        yield f"{stage} (of another run)" if timing.reused else stage, timing.seconds


def _scores(facts: CardFacts) -> str:
    summary = facts.summary
    if summary is None:
        return f"Nothing was scored.{f' {facts.remark}' if facts.remark else ''}\n"
    family, unit = summary.sam_family, summary.distance_unit
    text = (
        f"{summary.n} cases of {summary.bootstrap.n} patients, folds {', '.join(c.fold for c in facts.configs)}; in "
        f"brackets the {summary.bootstrap.level:.0%} bootstrap interval of the mean over patients. Protocol "
        f"`physical`: distances in {unit}, percentile as {summary.convention}, absent organs left out, a missed organ "
        "is Dice 0. Protocol `sam_family`: the rules of the SAMed code, in voxels.\n\n"
        f"| label | n | Dice | HD95 {unit} | NSD at {summary.nsd_tolerance:g} {unit} | Dice, sam_family | "
        "HD95 voxel, sam_family |\n|---|---|---|---|---|---|---|\n"
    )
    rows = []
    for key, name in summary.labels.items():
        mean, own = summary.mean[key], family.mean[key]
        values = [_cell(getattr(mean, metric), summary.intervals, metric, key) for metric in ("Dice", "HD95", "NSD")]
        values += [_cell(getattr(own, metric), family.intervals, metric, key) for metric in ("Dice", "HD95")]
        rows.append(f"| {name} | {summary.counts[key].scored} | {' | '.join(values)} |\n")
    whole, own_whole = summary.foreground_mean, family.foreground_mean
    values = [_cell(getattr(whole, metric), summary.intervals, metric, None) for metric in ("Dice", "HD95", "NSD")]
    values += [_cell(getattr(own_whole, metric), family.intervals, metric, None) for metric in ("Dice", "HD95")]
    return text + "".join(rows) + f"| **mean** | {summary.n} | {' | '.join(values)} |\n"


def _cell(value: float | None, intervals: Intervals, metric: str, key: str | None) -> str:
    if value is None:
        return _NONE
    digits = 1 if metric == "HD95" else 3
    known = intervals.foreground_mean if key is None else intervals.mean.get(key, {})
    interval: Interval | None = known.get(metric)
    shown = f"{value:.{digits}f}"
    return shown if interval is None else f"{shown} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _intended(facts: CardFacts) -> str:
    limits = [term.what for term in facts.terms if term.non_commercial]
    text = (
        "Research on scans like those it was trained on: same body region, modality and channels. Not a medical "
        "device; not for diagnosis or treatment. Look at every result before it is used, the more so on scans of "
        "another origin.\n"
    )
    return text + (f"\nNot for commercial use: {', '.join(limits)}.\n" if limits else "")


def _files(facts: CardFacts) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts.model.versions.items())
    return (
        f"`{DIGESTS_FILE}` holds size and SHA-256 of every file; `samora_import` checks them. Licences of data, base "
        f"and teachers: `{LICENCES_FILE}`. What to cite: `{CITATIONS_FILE}`.\n\nExported with {versions}.\n"
    )
