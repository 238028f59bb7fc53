"""The texts of an export: model card, licences and citations, and which base encoders are part of it.

The first lines of MODEL_CARD.md are the front matter that Hugging Face's hub reads. Every number in it comes from the
run's own records.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samora_pipeline.contracts.dataset import SamoraJson
from samora_pipeline.contracts.json_io import to_plain
from samora_pipeline.contracts.label_table import label_table
from samora_pipeline.contracts.run import PHANTOM_FLAG, BaseRecord, RunConfig
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.contracts.timing import Timing
from samora_pipeline.escaping import markdown_text
from samora_pipeline.evaluation.tables import render
from samora_pipeline.exported.contents import CITATIONS_FILE, DIGESTS_FILE, LICENCES_FILE, ModelJson, SharedBase
from samora_pipeline.inference.loading import find_base
from samora_pipeline.weights.records import known_licence

_TEMPLATE = "model_card.md.j2"
_FEW_PATIENTS = 10

# Licences (SPDX) under which a copy may be handed on as long as the licence goes with it.
REDISTRIBUTABLE = frozenset({"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0"})
UNKNOWN = "not stated"
_OWN = "trained by this run's own pipeline"

_METHOD = (
    'S. Chen, H. Yuan, P. Liu, H. Gu, T. Feng, D. Ni: "SAMora: Enhancing SAM through Hierarchical Self-Supervised '
    'Pre-Training for Medical Images"'
)
# The works that each part of a run is based on, by the beginning of its name.
_PARTS = {
    "sam_vit": 'A. Kirillov et al.: "Segment Anything", ICCV 2023, arXiv:2304.02643',
    "sam2": 'N. Ravi et al.: "SAM 2: Segment Anything in Images and Videos", 2024, arXiv:2408.00714',
    "samora_tiny": 'A. Kirillov et al.: "Segment Anything", ICCV 2023, arXiv:2304.02643 (its network, made small)',
    "simclr": 'T. Chen et al.: "Big Self-Supervised Models are Strong Semi-Supervised Learners", NeurIPS 2020, '
    "arXiv:2006.10029",
    "mae": 'K. He et al.: "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377',
    "samed": 'K. Zhang, D. Liu: "Customized Segment Anything Model for Medical Image Segmentation", 2023, '
    "arXiv:2304.13785",
    "hsam": 'Z. Cheng et al.: "Unleashing the Potential of SAM for Medical Adaptation via Hierarchical Decoding", '
    "CVPR 2024, arXiv:2403.18271",
}


@dataclass(frozen=True)
class Terms:
    """A thing a model was made from, its licence, and whether that forbids commercial use."""

    what: str
    licence: str

    @property
    def non_commercial(self) -> bool:
        """Whether the licence's name says that commercial use is not allowed."""
        return "-NC" in self.licence.upper()


def shared_bases(
    configs: Mapping[str, RunConfig], folders: Mapping[str, Path], weights: Path, *, with_base: bool
) -> tuple[tuple[SharedBase, ...], dict[str, Path]]:
    """The base encoders of the folds, each once, and the files that are part of the export by their names there.

    A base is part of it where the pipeline trained it itself, or where its licence (in the catalogue, or in the record
    beside the file) allows redistribution; the others are named by their digest. The file of a base that is not part
    of the export need not be there.

    Raises:
        AssetError: ``E-WEIGHT-05`` not there. DataError: ``E-WEIGHT-09`` another digest.
    """
    users: dict[str, tuple[BaseRecord, list[str]]] = {}
    for fold, config in configs.items():
        if config.base:
            users.setdefault(config.base.digest, (config.base, []))[1].append(fold)
    bases: list[SharedBase] = []
    files: dict[str, Path] = {}
    for digest, (base, folds) in users.items():
        own = base.origin == "bootstrap"
        licence = _OWN if own else known_licence(digest, weights) or ""
        allowed = own or licence in REDISTRIBUTABLE
        names: list[str] = []
        if with_base and allowed:
            file = find_base(base, folders[folds[0]], weights)
            places = [f"fold_{fold}/" for fold in folds] if len(users) > 1 else [""]
            names = [f"{place}base{file.suffix.lower()}" for place in places]
            files |= dict.fromkeys(names, file)
        terms = f"its licence, {licence or UNKNOWN}, {'allows' if allowed else 'may not allow'} redistribution"
        why = (_OWN if own else terms) if with_base else "left out on demand"
        bases.append(SharedBase(Path(base.name).name, digest, licence, names[0] if names else "", why, tuple(folds)))
    return tuple(bases), files


def terms_of(configs: Sequence[RunConfig], bases: Iterable[SharedBase], data: SamoraJson | None) -> list[Terms]:
    """Data, base encoders and teachers with their licences, each once; the labelled data come first."""
    dataset = configs[0].dataset
    others = sorted({name for config in configs for name in config.pool.cases} - {dataset})
    found = [
        (f"training data {dataset}", data.terms if data else ""),
        *((f"unlabelled data {name}", "") for name in others),
        *((f"base encoder {base.name} (sha256 {base.digest})", base.licence) for base in bases),
        *(
            (f"teacher of the {level} level: {teacher.weights}", teacher.licence)
            for config in configs
            for level, teacher in config.teachers.items()
            if teacher.origin != "random"
        ),
    ]
    return [Terms(what, licence or UNKNOWN) for what, licence in dict.fromkeys(found)]


def citations_of(configs: Sequence[RunConfig], data: SamoraJson | None) -> list[str]:
    """What to cite: the method, the data, the base, the teachers and the decoder, each once."""
    network = to_plain(configs[0].model)
    names = [str(network.get(part, "")) for part in ("backbone", "decoder")]
    names += [teacher.network for teacher in configs[0].teachers.values()]
    parts = [text for name in names for start, text in _PARTS.items() if name.lower().startswith(start)]
    own = [data.citation] if data and data.citation else []
    return list(dict.fromkeys([_METHOD, *own, *parts]))


def licences_page(terms: Sequence[Terms]) -> str:
    """LICENCES.md."""
    rows = "".join(f"| {markdown_text(term.what)} | {markdown_text(term.licence)} |\n" for term in terms)
    limits = [markdown_text(term.what) for term in terms if term.non_commercial]
    text = (
        "# Licences\n\nWhat this model was made from, and on what terms that was available.\n\n"
        f"| what | licence or terms |\n|---|---|\n{rows}\n"
    )
    if limits:
        text += f"Not for commercial use: {', '.join(limits)}.\n\n"
    return text + (
        "The software that trained it, samora_pipeline, is licensed under Apache-2.0. On what terms the trained "
        "weights themselves are handed on is for those who trained them to say; this page does not say it for them.\n"
    )


def citations_page(citations: Sequence[str]) -> str:
    """CITATIONS.md."""
    return "# Please cite\n\n" + "".join(f"- {markdown_text(citation)}\n" for citation in citations)


@dataclass(frozen=True)
class CardFacts:
    """The input of the model card: the record of the export, the configs of its folds, and their scores.

    ``summary`` is None where nothing was scored; ``remark`` then gives the reason, where there is one.
    """

    model: ModelJson
    configs: tuple[RunConfig, ...]
    summary: Summary | None
    timings: tuple[Timing, ...]
    terms: tuple[Terms, ...]
    remark: str = ""


def model_card(facts: CardFacts) -> str:
    """The model card in Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def escaped(value: object) -> object:
        return value if isinstance(value, Markup) else markdown_text(str(value))

    loader = PackageLoader("samora_pipeline.handover", ".")
    # Markdown, not HTML: escaped by its own rules.
    environment = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, autoescape=False, finalize=escaped
    )
    config = facts.configs[0]
    return environment.get_template(_TEMPLATE).render(
        vars(facts),
        config=config,
        network=to_plain(config.model),
        labels=label_table(config.labels),
        scores=render(facts.summary) if facts.summary else "",
        not_exercised=not_exercised(facts),
        licences_file=LICENCES_FILE,
        citations_file=CITATIONS_FILE,
        digests_file=DIGESTS_FILE,
    )


def not_exercised(facts: CardFacts) -> list[str]:
    """What this model has not been tried on, according to its records."""
    summary, first = facts.summary, facts.configs[0]
    known = ", ".join(sorted({timing.device for timing in facts.timings if timing.device})) or "an unrecorded device"
    unseen = [name for key, name in summary.labels.items() if not summary.counts[key].scored] if summary else []
    few = summary is not None and summary.bootstrap.n < _FEW_PATIENTS
    items = (
        (True, "scans of other sites, scanners or protocols than those of the training data"),
        (PHANTOM_FLAG in facts.model.warnings, "any real scan: it was trained and scored on synthetic data"),
        ("cuda" not in known, f"a GPU: its last stage ran on {known}"),
        (len(facts.configs) == 1, f"other folds than {first.fold}: how much it depends on the split is not known"),
        (len({config.seed for config in facts.configs}) == 1, f"other seeds than {first.seed}"),
        (summary is None, "scoring: there are no scores of this run"),
        (few, f"more than {summary.bootstrap.n if summary else 0} patients, which cannot support a ranking of methods"),
        (bool(unseen), f"scored cases that show {', '.join(unseen)}"),
    )
    return [text for holds, text in items if holds]
