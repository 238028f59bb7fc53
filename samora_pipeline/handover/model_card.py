"""MODEL_CARD.md: what a model was trained on, what it reached, its intended use, and what has not been tried yet.

The first lines are the front matter that Hugging Face's hub reads. Every number comes from the run's own records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from samora_pipeline.contracts.json_io import to_plain
from samora_pipeline.contracts.label_table import label_table
from samora_pipeline.contracts.run import PHANTOM_STAMP, RunConfig
from samora_pipeline.contracts.scores import Intervals, Summary
from samora_pipeline.contracts.timing import Timing
from samora_pipeline.handover.contents import CITATIONS_FILE, DIGESTS_FILE, LICENCES_FILE, ModelJson
from samora_pipeline.handover.terms import Terms

_TEMPLATE = "model_card.md.j2"
_FEW_PATIENTS = 10
_PHYSICAL, _SAM_FAMILY = ("Dice", "HD95", "NSD"), ("Dice", "HD95")


@dataclass(frozen=True)
class CardFacts:
    """What the card is made from: the record of the export, the configs of its folds, and what is known of them.

    ``summary`` is None where nothing was scored; ``remark`` then gives the reason, where there is one.
    """

    model: ModelJson
    configs: tuple[RunConfig, ...]
    summary: Summary | None
    timings: tuple[Timing, ...]
    terms: tuple[Terms, ...]
    remark: str = ""


def model_card(facts: CardFacts) -> str:
    """The card in Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("samora_pipeline.handover", ".")
    # Markdown, not HTML: nothing is escaped.
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, autoescape=False)
    config = facts.configs[0]
    return environment.get_template(_TEMPLATE).render(
        vars(facts),
        config=config,
        network=to_plain(config.model),
        labels=label_table(config.labels),
        scores=list(_scores(facts.summary)) if facts.summary else [],
        not_exercised=not_exercised(facts),
        licences_file=LICENCES_FILE,
        citations_file=CITATIONS_FILE,
        digests_file=DIGESTS_FILE,
    )


def not_exercised(facts: CardFacts) -> list[str]:
    """What this model has not been tried on, according to its records."""
    summary, first = facts.summary, facts.configs[0]
    devices = sorted({timing.device for timing in facts.timings if timing.device})
    unseen = [name for key, name in summary.labels.items() if not summary.counts[key].scored] if summary else []
    few = summary is not None and summary.bootstrap.n < _FEW_PATIENTS
    items = (
        (True, "scans of other sites, scanners or protocols than those of the training data"),
        (PHANTOM_STAMP in facts.model.stamps, "any real scan: it was trained and scored on synthetic data"),
        (
            not any(device.startswith("cuda") for device in devices),
            f"a GPU: its last stage ran on {', '.join(devices) or 'an unrecorded device'}",
        ),
        (
            len(facts.configs) == 1,
            f"other folds than {first.fold}, so how much it depends on the split is not known",
        ),
        (len({config.seed for config in facts.configs}) == 1, f"other seeds than {first.seed}"),
        (summary is None, "scoring: there are no scores of this run"),
        (few, f"more than {summary.bootstrap.n if summary else 0} patients, which cannot support a ranking of methods"),
        (bool(unseen), f"scored cases that show {', '.join(unseen)}"),
    )
    return [text for holds, text in items if holds]


def _scores(summary: Summary) -> Iterator[list[str]]:
    """The rows of the table of scores: each label, then the mean over the labels."""
    family = summary.sam_family
    rows = [(name, summary.counts[key].scored, key) for key, name in summary.labels.items()]
    for name, count, key in (*rows, ("**mean**", summary.n, None)):
        own, theirs = summary.foreground_mean, family.foreground_mean
        if key is not None:
            own, theirs = summary.mean[key], family.mean[key]
        cells = [_cell(getattr(own, metric), summary.intervals, metric, key) for metric in _PHYSICAL]
        cells += [_cell(getattr(theirs, metric), family.intervals, metric, key) for metric in _SAM_FAMILY]
        yield [name, str(count), *cells]


def _cell(value: float | None, intervals: Intervals, metric: str, key: str | None) -> str:
    if value is None:
        return "-"
    digits = 1 if metric == "HD95" else 3
    interval = (intervals.foreground_mean if key is None else intervals.mean.get(key, {})).get(metric)
    limits = f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]" if interval else ""
    return f"{value:.{digits}f}{limits}"
