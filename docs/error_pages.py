"""Writes docs/errors.md from the sources: a section per error code, with its message, its conditions and its fixes.

    python docs/error_pages.py

A test compares the page with the sources. A code means one thing: the sentence of its entry in errors.toml. For codes
that have none yet and are said in several sentences, ``MEANINGS`` states what these have in common.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "errors.md"

# A program beside the packages finds them, and its own second file, wherever it is called from.
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from error_sources import CodeFacts, collect  # noqa: E402

from samora_pipeline import errors  # noqa: E402
from samora_pipeline.files import write_text  # noqa: E402

MEANINGS = {
    "E-ARG-01": "the number of worker processes is not usable",
    "E-ARG-04": "`--shard` names no share of the work",
    "E-ARG-07": "a dataset needs a name that can be a folder's name",
    "E-CHAN-04": "scans to be predicted have other channels than the model takes",
    "E-CONV-04": "the dataset that scans are added to has others of the same names",
    "E-DISK-02": "there is not enough space to begin",
    "E-EVAL-01": "a reference or a prediction is missing",
    "E-EVAL-05": "the folds of a run cannot be aggregated",
    "E-EXP-20": "an expert does not belong to this network",
    "E-INPUT-02": "two inputs stand for the same case",
    "E-LABEL-09": "label values occur that are not declared",
    "E-RUN-19": "the settings differ from those the run was started with",
    "E-SET-01": "`--set` names something that cannot be set",
    "E-SET-02": "`--set` gives no value, or one that is not usable",
    "E-SET-04": "a number among the settings is out of range",
    "E-SPLIT-05": "a split requests labels that do not exist",
    "E-SPLIT-06": "a split lists a slice that its case does not have",
    "E-SRC-05": "source and dataset are not apart from each other",
    "E-TEACH-01": "the input size does not fit a teacher",
    "E-WEIGHT-05": "required weights are missing",
    "E-WEIGHT-06": "the content of a weight file differs from its recorded digest",
    "E-WEIGHT-07": "a file is not readable as weights",
    "E-WEIGHT-08": "weights hold values that are NaN or infinite",
    "E-WEIGHT-10": "the source of the weights cannot be reached or refused the request",
}

_HEAD = """# Errors and remarks by code

Every message begins with its code. `E-` codes end a command or skip a case, `W-` codes are remarks in
`integrity.json`. Values that are known at run time only are shown in braces. This page is generated from the sources:
`python docs/error_pages.py`.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a fault in samora_pipeline |
| 2 | the command line is wrong |
| 3 | finished, and some cases failed |
| 4 | a file, a folder or a value breaks its contract |
| 5 | something must be fetched or made first |
| 6 | memory, disk or a device is not enough |
| 75 | a training has saved its state at the end of `--max-hours`; the same command with `-c` resumes |
| 130, 138, 143 | stopped by Ctrl-C, SIGUSR1 or SIGTERM; a training has saved its state, and `-c` resumes |

"""
_MOST = 4


def page(facts: dict[str, CodeFacts]) -> str:
    """The page in Markdown."""
    index = "".join(f"| [{code}](#{code.lower()}) | {title(code, entry)} |\n" for code, entry in facts.items())
    sections = "".join(f"\n{_section(code, entry)}" for code, entry in facts.items())
    return f"{_HEAD}| code | what |\n|---|---|\n{index}{sections}"


def title(code: str, entry: CodeFacts) -> str:
    """The one thing that a code means."""
    if code in errors.ERRORS:
        return _text(errors.ERRORS[code].what)
    return MEANINGS.get(code) or _text(next(iter([*entry.distinct("what"), *entry.when]), code))


def ambiguous(facts: dict[str, CodeFacts]) -> dict[str, list[str]]:
    """Codes that are said in several sentences without a common meaning on record."""
    known = {*MEANINGS, *errors.ERRORS}
    said = {code: entry.distinct("what") for code, entry in facts.items() if code not in known}
    return {code: sentences for code, sentences in said.items() if len(sentences) > 1}


def main() -> int:
    """Write the page; 1 when a code means two things."""
    facts = collect(ROOT)
    write_text(PAGE, page(facts))
    for code, sentences in ambiguous(facts).items():
        sys.stderr.write(f"{code} means several things: {'; '.join(sentences)}\n")
    return 1 if ambiguous(facts) else 0


def _section(code: str, entry: CodeFacts) -> str:
    said = entry.distinct("what")
    lines = [f"## {code}", "", f"**{title(code, entry)}**{_exit(entry)}", ""]
    table = errors.ERRORS.get(code, errors.Entry(""))
    if code in MEANINGS or (table.what and said):
        lines += _listed("Says", said)
    lines += _listed("When", entry.when[:_MOST])
    lines += _listed("Expected", _with_table(table.expected, entry.distinct("expected")))
    lines += _listed("Fix", _with_table(table.fix, entry.distinct("fix")))
    modules = sorted({site.module for site in entry.sites})
    return "\n".join([*lines, f"- Raised in: {', '.join(f'`{module}`' for module in modules)}", ""])


def _with_table(text: str, others: list[str]) -> list[str]:
    return list(dict.fromkeys([text, *others] if text else others))[:_MOST]


def _listed(name: str, texts: list[str]) -> list[str]:
    if len(texts) < 2:
        return [f"- {name}: {_text(text)}" for text in texts]
    return [f"- {name}:", *(f"  - {_text(text)}" for text in texts)]


def _exit(entry: CodeFacts) -> str:
    kinds = {getattr(errors, site.kind, None) for site in entry.sites if site.kind.endswith("Error")}
    codes = sorted({kind.exit_code for kind in kinds if kind is not None})
    return f" (exit code {' or '.join(map(str, codes))})" if codes else ""


def _text(text: str) -> str:
    """A text in which Markdown finds nothing to interpret."""
    for mark, plain in (("\\", "\\\\"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("__", "\\_\\_")):
        text = text.replace(mark, plain)
    return text


if __name__ == "__main__":
    sys.exit(main())
