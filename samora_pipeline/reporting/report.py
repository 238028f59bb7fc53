"""report.html of a run: everything that was learned about it, on one page that needs nothing else."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from samora_pipeline.contracts import run as rec
from samora_pipeline.errors import SamoraError
from samora_pipeline.files import write_text
from samora_pipeline.reporting.attention import attention_section
from samora_pipeline.reporting.html_blocks import Block, Note, Section
from samora_pipeline.reporting.html_page import Page, render_page
from samora_pipeline.reporting.pictures import CaseStack, SelectedCase, choose_cases, read_case, shown_case
from samora_pipeline.reporting.report_data import data_section
from samora_pipeline.reporting.report_network import NetworkProbe, enough_memory, experts_section, load_probe
from samora_pipeline.reporting.report_record import record_section
from samora_pipeline.reporting.report_run import ReportedRun, reason, section_or_reason
from samora_pipeline.reporting.report_scores import case_section, headline, organ_section
from samora_pipeline.reporting.report_training import pretraining_section, training_section
from samora_pipeline.reporting.slider import make_viewer, size_of

logger = logging.getLogger("samora")

Networks = tuple[dict[str, NetworkProbe], dict[str, SamoraError]]
ProbedSection = Callable[[dict[str, NetworkProbe], CaseStack], Section]

REPORT_FILE = "report.html"
LARGEST = 2_000_000
"""bytes of a report; the sliders get what the rest leaves"""
_LEAST = 60_000
RUN_LETTERS = ("A", "B", "C", "D")
"""of the runs of a comparison, the baseline first"""

_WARNINGS = {
    rec.PHANTOM_FLAG: "The scans are synthetic: these scores say that the pieces work, and nothing about patients.",
    rec.LEAK_FLAG: "Training data overlap the scored scans (data leakage): these scores are optimistically biased.",
    rec.TRAINING_FLAG: "What is scored was trained on: these scores say how well it was learned by heart, no more.",
    rec.TRANSDUCTIVE_FLAG: "The scored scans were in the unlabelled pool: compare with transductive results only.",
    rec.BOOTSTRAP_FLAG: "The base encoder was trained on the unlabelled pool: this is not SAM.",
    rec.RANDOM_TEACHER_FLAG: "A teacher started from random weights, not from the published ones.",
    rec.UNTRAINED_TEACHER_FLAG: "A teacher was used without training it on the pool.",
}


def write_report(run: ReportedRun, path: Path, device: torch.device) -> Path:
    """Write the report of a run to ``path``; what it cannot find is left out, and the page says so.

    Raises:
        DataError: the run's own records are damaged.
    """
    write_text(path, render_page(make_page(run, device)))
    return path


def make_page(run: ReportedRun, device: torch.device) -> Page:
    """Everything of a run's report. The network is probe about one case, the median."""
    summary, warnings = run.scored.summary, run.scored.warnings
    chosen = choose_cases(summary)
    networks = load_networks([run], chosen, device)
    makers: dict[str, ProbedSection] = {
        "experts": lambda probes, stack: experts_section(probes[""], stack, warnings),
        "attention": lambda probes, stack: attention_section(probes, stack, warnings),
    }
    if len(run.config.model.levels) < 2:
        del makers["experts"]
    made = {name: partial(probed_section, networks, [run], chosen, make) for name, make in makers.items() if chosen}
    network = networks[0].get("")
    sections = [
        organ_section(summary, warnings),
        case_section(summary, chosen),
        *(section_or_reason(name, make) for name, make in made.items()),
        section_or_reason("training", partial(training_section, run, warnings)),
        section_or_reason("pretraining", partial(pretraining_section, run, warnings)),
        section_or_reason("data", partial(data_section, run, warnings)),
        record_section(run, network.trained if network else None),
    ]
    page = Page(
        title=f"{run.config.trainer} on {run.config.dataset}, {run.config.split}",
        headline=headline(summary),
        facts=_facts(run),
        warnings=warnings,
        explanations=explanations_of(warnings),
        sections=tuple(sections),
    )
    return with_pictures(page, [run], chosen)


def with_pictures(page: Page, runs: list[ReportedRun], chosen: list[SelectedCase]) -> Page:
    """The page with the pictures that its other sections leave room for, after the list of cases."""
    budget = LARGEST - len(render_page(page).encode())
    make = partial(picture_section, runs, chosen, page.warnings, budget)
    place = 1 + [section.name for section in page.sections].index("case-list")
    pictures = section_or_reason("pictures", make)
    return replace(page, sections=(*page.sections[:place], pictures, *page.sections[place:]))


def picture_section(
    runs: list[ReportedRun], chosen: list[SelectedCase], warnings: tuple[str, ...], budget: int
) -> Section:
    """Worst, median and best case of the last run with sliders; with several runs the predictions of all, A, B, ...

    Raises:
        SamoraError: of every case a scan, a reference or a prediction is missing or damaged.
    """
    config, summaries = runs[0].config, [run.scored.summary for run in runs]
    names = RUN_LETTERS[: len(runs)] if len(runs) > 1 else ()
    viewers: list[Block] = []
    faults: list[SamoraError] = []
    for place, one in enumerate(chosen):
        share = max(_LEAST, budget // (len(chosen) - place))
        try:
            shown = shown_case(one, stack_of(runs, one.case.case), summaries, names)
        except SamoraError as error:
            faults.append(error)
            viewers.append(Note(f"{one.case.case} is left out: {reason(error)}"))
            continue
        viewer = make_viewer(shown, config.labels, config.plans.slice_axis.value, warnings, share)
        viewers.append(viewer)
        budget -= size_of(viewer)
    if faults and len(faults) == len(chosen):
        raise faults[0]
    blocks = tuple(viewers) or (Note("No scored case has an organ in its reference."),)
    of_which = f" of {names[-1]} ({lettered(runs)})" if names else ""
    return Section("pictures", blocks, words=(of_which,))


def lettered(runs: list[ReportedRun]) -> str:
    """Which letter stands for which run."""
    return "; ".join(f"{letter}: {run.label}" for letter, run in zip(RUN_LETTERS, runs, strict=False))


def stack_of(runs: list[ReportedRun], case: str) -> CaseStack:
    """A scored case with the predictions of the runs."""
    files = runs[0].raw_case(case)
    with runs[0].reading(case):
        return read_case(files, [run.prediction(case) for run in runs], runs[0].config.plans)


def median_of(chosen: list[SelectedCase]) -> SelectedCase:
    """The median case, or the first of those that are there."""
    return next((one for one in chosen if one.role == "median"), chosen[0])


def explanations_of(warnings: tuple[str, ...]) -> tuple[str, ...]:
    """What the warnings mean, in sentences."""
    return tuple(text for warning, text in _WARNINGS.items() if any(one.startswith(warning) for one in warnings))


def load_networks(runs: list[ReportedRun], chosen: list[SelectedCase], device: torch.device) -> Networks:
    """The networks that scored the median case, and why the others cannot be loaded, by the letters of their runs."""
    probes: dict[str, NetworkProbe] = {}
    faults: dict[str, SamoraError] = {}
    for letter, run in zip(RUN_LETTERS if len(runs) > 1 else ("",), runs if chosen else (), strict=False):
        try:
            probes[letter] = load_probe(run, run.fold_of(median_of(chosen).case.case), device)
        except SamoraError as error:
            logger.info("report: the network of %s is not loaded: %s", run.label, error.what)
            faults[letter] = error
    return probes, faults


def probed_section(
    networks: Networks, runs: list[ReportedRun], chosen: list[SelectedCase], make: ProbedSection
) -> Section:
    """What the networks show of the median case, with a note for each that could not be loaded.

    Raises:
        SamoraError: why the first network cannot be loaded, where none can be.
    """
    probes, faults = networks
    if not probes:
        raise next(iter(faults.values()))
    with enough_memory():
        section = make(probes, stack_of(runs, median_of(chosen).case.case))
    notes = (Note(f"{letter} is left out: {reason(error)}") for letter, error in faults.items())
    return replace(section, blocks=(*section.blocks, *notes))


def _facts(run: ReportedRun) -> tuple[tuple[str, str], ...]:
    config = run.config
    model = config.model
    return (
        ("run", run.label),
        ("folds", ", ".join(run.scored.folds)),
        ("labels", f"{config.split} ({len(config.selection.cases)} cases)"),
        ("network", f"{model.backbone}, {model.input_text}"),
        ("experts", ", ".join(model.levels) or "none"),
        ("recipe", config.recipe),
        ("seed", str(config.seed)),
    )
