"""Random faults over every artefact and every command: one file is damaged, replaced or hidden, then a command runs.

    python -m tests.reliability.random_faults SEED COUNT [--stage NAME] [--base FOLDER]

A seed decides the stage, the file and the fault. Counts are printed by verdict, and every failure in full.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.base import (
    BOTH,
    COMMANDS,
    DATASET,
    FOLD,
    PLAN,
    PREPROCESSED,
    RAW,
    RUN,
    Command,
    Workplace,
    differences,
    evaluate,
    predict,
    results,
    train,
    train_fast,
)
from tests.reliability.faults import NO_FILE, PERMISSION, VALID, files_below, spoil
from tests.reliability.forked import NOBODY, Outcome
from tests.reliability.program import run_trials

_RUN, _EXPERTS = f"root/results/{RUN}", f"root/results/{DATASET}/pretraining"

STAGES: dict[str, tuple[Command, tuple[str, ...]]] = {
    "convert": (COMMANDS["convert"], ("source",)),
    "plan": (COMMANDS["plan"], ("root/raw",)),
    "plan_again": (Command(BOTH, lambda _: PLAN, ("root/preprocessed",)), (PREPROCESSED, PREPROCESSED, RAW)),
    "plan_all": (Command(BOTH, lambda _: PLAN[:1], ("root/preprocessed",)), (PREPROCESSED, RAW)),
    "train": (Command(BOTH, lambda _: train_fast(), ("root/results",)), (PREPROCESSED, PREPROCESSED, RAW)),
    "resume": (Command(("midroot",), lambda _: train("n", "-c"), ("root/results",)), ("root/results", PREPROCESSED)),
    "predict": (Command(("root/raw", "root/results"), predict, ("out",)), (_RUN, f"{RAW}/imagesTr")),
    "predict_on": (
        Command(("root/raw", "root/results", "preds"), lambda t: predict(t, "--continue", output="preds"), ("preds",)),
        ("preds", "preds", _RUN),
    ),
    "evaluate": (Command(("root/raw", "preds"), evaluate, ("preds/summary.json",)), ("preds", RAW)),
    "import_zip": (COMMANDS["import"], ("m.zip",)),
    "import_folder": (
        Command(("mfolder",), lambda t: ["samora_import", f"{t}/mfolder"], ("root/results",)),
        ("mfolder",),
    ),
    "report": (COMMANDS["report"], (_RUN, PREPROCESSED, RAW)),
    "export": (COMMANDS["export"], (_RUN,)),
    "shared_experts": (
        Command(("root",), lambda _: train("again"), (f"root/results/{DATASET}/SAMoraTrainer__2cases__again",)),
        (_EXPERTS,),
    ),
    "compare": (COMMANDS["compare"], (FOLD,)),
    "export_labels": (
        Command(
            ("root/raw", "preds"),
            lambda t: ["samora_export", "labels", f"{t}/preds", "-o", f"{t}/ex", "--format", "seg.nrrd"],
            ("ex",),
        ),
        ("preds",),
    ),
    "finished_run": (Command(("root",), lambda _: train("n", "-c"), (_RUN,)), (FOLD,)),
}
"""each command, and the folders that faults go into"""

RIGHT = frozenset({"identical", "refused", "skipped", "no effect", "said", "valid input"})
"""verdicts that are no failure"""
_EXCESS = 3_000_000
"""kB above the undisturbed command"""
_SAYS = re.compile(r"could not be written|cannot write|not scored|is decided from the data again|\bremark\b|edited")


@dataclass(frozen=True)
class Trial:
    """One fault and what came of it."""

    seed: int
    stage: str
    file: str
    fault: str
    remark: str
    outcome: Outcome
    usual: Outcome
    differing: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Judged by exit status, text, memory, and the results that differ from those of the undisturbed command."""
        outcome = self.outcome
        if outcome.status is None or outcome.memory - self.usual.memory > _EXCESS:
            return "hang"
        if outcome.crashed or (outcome.status not in (0, 3) and not outcome.code):
            return "traceback"
        if outcome.controls:
            return "ESCAPES"
        if outcome.status:
            return "skipped" if outcome.status == 3 else "refused"
        return "identical" if not self.differing else self._explained() or "SILENT"

    def _explained(self) -> str:
        """Why another result with exit code 0 is right, if it is."""
        if f"{RAW}/" in self.file and self.fault in NO_FILE - {"deleted", "empty"}:
            # A scan or a label that is there and no file must not be left out without its name.
            case = Path(self.file).name.partition(".")[0].removesuffix("_0000")
            return "said" if any(case in line for line in self.said()) else ""
        same = {self.file, self.remark.rpartition("/trial/")[2] if self.fault == "swapped" else self.file}
        if all(d in same or d.startswith(f"{self.file}/") for d in self.differing) or self.fault == "copy_beside":
            return "no effect"
        names = {Path(d).name for d in self.differing}
        if self.file.endswith(".json") and names == {Path(self.file).name}:
            return "no effect"
        if any(_SAYS.search(line) for line in self.said()):
            return "said"
        given = self.file.startswith(("source/", "root/raw/")) or self.stage == "export_labels"
        handed_on = self.stage == "export" and self.fault == "json_value"
        return "valid input" if (given and self.fault in VALID) or handed_on else ""

    def said(self) -> list[str]:
        """The lines that the undisturbed command does not print, times left out."""
        known = set(_lines(self.usual.text))
        return [line for line in _lines(self.outcome.text) if line not in known]

    def __str__(self) -> str:
        last = " | ".join(self.outcome.text.strip().splitlines()[-3:])[-400:]
        where = f"{self.verdict} {self.stage} {self.file} {self.fault} {self.remark[:60]!r}"
        return f"{where} exit {self.outcome.status} {self.outcome.code} {self.differing[:3]} {last!r}"


def _lines(text: str) -> list[str]:
    text = re.sub(r"\d+(\.\d+)? s\b|about .* left|\b\d+:\d\d\b", "S", text)
    return [line for line in text.splitlines() if line.strip() and "time" not in line]


def trial(place: Workplace, seed: int, stage: str | None = None) -> Trial:
    """Draw a fault, make it, run the command, judge."""
    draw = random.Random(seed)
    stage = stage or draw.choice(list(STAGES))
    command, folders = STAGES[stage]
    expected, usual = place.reference(f"stage {stage}", command)
    folder = place.setup(command.parts)
    path = _pick(draw, folder / draw.choice(folders))
    fault, remark = spoil(path, draw)
    user = NOBODY if remark == PERMISSION else None
    if user is not None:
        subprocess.run(["chown", "-hR", f"{user}:{user}", str(folder)], check=False)
        place.scratch.chmod(0o777)
    outcome = place.run(command.words(folder), user=user)
    if user is not None:
        subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=False)
    differing = tuple(differences(expected, results(folder, command.compared)))
    return Trial(seed, stage, path.relative_to(folder).as_posix(), fault, remark, outcome, usual, differing)


def _pick(draw: random.Random, folder: Path) -> Path:
    """Draw a file; every kind of file is as likely as every other."""
    kinds: dict[str, list[Path]] = {}
    for path in files_below(folder):
        kinds.setdefault("".join(path.suffixes[-1:]), []).append(path)
    return draw.choice(kinds[draw.choice(sorted(kinds))])


def main(words: list[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=tuple(STAGES))
    return run_trials(parser, lambda place, seed, given: trial(place, seed, given.stage), RIGHT, words)


if __name__ == "__main__":
    raise SystemExit(main())
