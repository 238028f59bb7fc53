"""The label-efficiency study: variants x label budgets x seeds through the public commands, and what came of it.

    python -m benchmarks.studies.label_efficiency --root STUDY --source LA=FOLDER --scale tiny --budget-minutes 25
    python -m benchmarks.studies.label_efficiency --root STUDY --scale vit_b --next --chunk-minutes 9

The same command goes on after any interruption, whatever it was. Everything lies under STUDY: the data root of the
commands, and in STUDY/study the state (study.json), logs, tables and pictures.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.studies.scales import SCALES
from benchmarks.studies.sources import SOURCES, find_source
from benchmarks.studies.variants import MAIN, VARIANTS, NnunetVariant, Variant, find_variants
from samora_pipeline import resources
from samora_pipeline.command_line import EXIT_FAILED_CASES, EXIT_OK, CommandParser, run, say
from samora_pipeline.errors import UsageError

if TYPE_CHECKING:
    from benchmarks.studies.steps import Setting
    from trainers.study.processes import Launch

_EPILOG = f"""variants: {", ".join(VARIANTS)}
Without --variants, all are run at the first label budget, at the others the main ones ({", ".join(MAIN)}).
"""


def build_parser() -> CommandParser:
    """The options."""
    parser = CommandParser("label_efficiency", "Compare methods at several label budgets and seeds.", _EPILOG)
    parser.add_argument("--dataset", default="LA", help=f"{', '.join(SOURCES)}, or a converted one (default LA)")
    parser.add_argument("--source", nargs="+", default=[], metavar="NAME=DIR", help="downloads that are not converted")
    parser.add_argument("--scale", choices=tuple(SCALES), default="tiny", help="default: tiny")
    parser.add_argument(
        "--variants", nargs="+", metavar="VARIANT", help="default: all but nnU-Net's; the first is the baseline"
    )
    parser.add_argument("--budgets", nargs="+", default=[], metavar="SPLIT", help="default: those of the dataset")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--budget-minutes", type=float, metavar="M", help="of all sessions together")
    parser.add_argument("--next", action="store_true", help="one chunk of --chunk-minutes, then stop")
    parser.add_argument("--chunk-minutes", type=float, default=9.0, metavar="M", help="default: 9")
    parser.add_argument("--input-size", type=int, metavar="N", help="pixels (default: the scale's)")
    parser.add_argument("--base", metavar="W", help="base weights: a file, a name or bootstrap (default: the scale's)")
    parser.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="K=V", help="for every variant"
    )
    parser.add_argument("--device", metavar="D", help="as in samora_train")
    parser.add_argument(
        "--nnunet", type=Path, metavar="BIN", help="bin folder of the environment that nnU-Net v2 is in"
    )
    parser.add_argument(
        "--nnunet-trainer",
        default="nnUNetTrainer",
        metavar="T",
        help="default: nnUNetTrainer; nnUNetTrainer_250steps where there is no GPU",
    )
    parser.add_argument("--tables", action="store_true", help="train nothing, only write tables of what is finished")
    return parser


def main(argv: Sequence[str] | None = None, launch: Launch | None = None) -> int:
    """Run a session and return its exit code: 3 when steps failed."""
    return run(build_parser(), lambda arguments: study(arguments, launch), None if argv is None else list(argv))


def study(arguments: argparse.Namespace, launch: Launch | None = None) -> int:
    """One session, and the tables when everything is finished or time is up."""
    from samora_pipeline.reproducibility import snapshot
    from trainers.study.processes import spawn
    from trainers.study.session import Limits, Session
    from trainers.study.state import StateFile, held

    setting = make_setting(arguments)
    variants = _variants(arguments)
    runs, others = _runs(setting, variants, arguments)
    prepare = _prepare(setting, variants, arguments)
    frame = {
        "dataset": setting.source.name,
        "fold": setting.source.fold,
        "scale": setting.scale.name,
        "input_size": setting.scale.input_size,
        "base": setting.scale.base or "packaged",
        "settings": setting.settings,
    }
    folder = setting.roots.root / "study"
    machine = {**snapshot(), "cores": str(resources.cores().value), "processor": _processor()}
    start = launch or spawn
    cells = sorted([*runs, *others], key=lambda step: arguments.seeds.index(step.seed))
    steps = [*prepare, *cells]
    with held(folder) as lock:
        state = StateFile(folder, frame, machine)
        limits = Limits(
            _seconds(arguments.budget_minutes), _seconds(arguments.chunk_minutes) if arguments.next else None
        )
        session = Session(folder, state, lock, limits, start)
        here = _scans_here(setting)
        finished = arguments.tables or (session.run(prepare) and session.run(cells, validate=here))
        failed = session.failed(steps)
        done = sum(state.state.step(step.name).status == "done" for step in steps)
        say(f"{done} of {len(steps)} steps are done; {state.state.seconds / 60:.1f} minutes in commands so far")
        for name, message in failed:
            say(f"failed: {name}: {message}")
        if finished or not arguments.next:
            from benchmarks.studies.ending import write_ending

            write_ending(folder, state.state, [*runs, *others], variants, lock, start)
        else:
            say("the same command goes on")
    return EXIT_FAILED_CASES if failed else EXIT_OK


def make_setting(arguments: argparse.Namespace) -> Setting:
    """Dataset, scale and roots of a study."""
    from benchmarks.studies.steps import Setting
    from samora_pipeline.paths import resolve_roots

    scale = SCALES[arguments.scale]
    scale = replace(scale, input_size=arguments.input_size or scale.input_size, base=arguments.base or scale.base)
    source = find_source(arguments.dataset, arguments.budgets)
    return Setting(resolve_roots(arguments.root), source, scale, tuple(arguments.assignments), arguments.device)


def _variants(arguments: argparse.Namespace) -> tuple[Variant | NnunetVariant, ...]:
    names = arguments.variants or [name for name, variant in VARIANTS.items() if isinstance(variant, Variant)]
    return find_variants(names)


def _runs(
    setting: Setting, variants: Sequence[Variant | NnunetVariant], arguments: argparse.Namespace
) -> tuple[list, list]:  # type: ignore[type-arg]
    """The runs of samora_train and those of nnU-Net, all checked to be possible."""
    from benchmarks.studies.availability import require_available
    from benchmarks.studies.nnunet import NnunetRun, require_nnunet
    from benchmarks.studies.steps import TrainedRun

    budgets = setting.source.budgets
    cells = [
        (variant, budget, seed)
        for seed in arguments.seeds
        for number, budget in enumerate(budgets)
        for variant in variants
        if arguments.variants or number == 0 or isinstance(variant, NnunetVariant) or variant.name in MAIN
    ]
    own = [
        TrainedRun(setting, variant, budget, seed) for variant, budget, seed in cells if isinstance(variant, Variant)
    ]
    foreign = [
        NnunetRun(setting, variant, budget, seed, arguments.nnunet, arguments.nnunet_trainer)
        for variant, budget, seed in cells
        if isinstance(variant, NnunetVariant)
    ]
    require_available(own)
    require_nnunet(foreign)
    return own, foreign


def _prepare(setting: Setting, variants: Sequence[Variant | NnunetVariant], arguments: argparse.Namespace) -> list:  # type: ignore[type-arg]
    from benchmarks.studies.steps import Prepare

    folders: dict[str, Path] = {}
    for text in arguments.source:
        name, equals, place = text.partition("=")
        if not equals:
            raise UsageError("E-STUDY-09", f'--source "{text}" names no folder', found=text, expected="NAME=DIR")
        folders[name] = Path(place)
    names = [
        setting.source.name,
        *(name for variant in variants if isinstance(variant, Variant) for name in variant.unlabeled),
    ]
    sources = [setting.source, *(SOURCES[name] for name in dict.fromkeys(names[1:]) if name != names[0])]
    steps = [Prepare(setting, source, folders.get(source.name)) for source in sources]
    for step in steps:
        step.require_source()
    return steps


def _scans_here(setting: Setting) -> bool:
    """Whether the scans themselves are on this machine, or only their preprocessed slices."""
    from benchmarks.studies.sources import raw_folder

    raw = raw_folder(setting.source, setting.roots)
    return raw is None or any((raw / "imagesTr").glob("*"))


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else 60 * minutes


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
