"""Writes docs/datasets.md from what the converters state: ``python docs/dataset_page.py``. A test compares the two."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "datasets.md"
sys.path.insert(0, str(ROOT))

from dataset_conversion.catalogue import load_converters  # noqa: E402
from dataset_conversion.converter import Converter  # noqa: E402
from dataset_conversion.datasets.decathlon import TASKS  # noqa: E402
from dataset_conversion.facts import Fact, facts  # noqa: E402
from samora_pipeline.files import write_text  # noqa: E402

_INTRODUCTION = """# Datasets

What each converter expects and what it makes of it; `samora_convert -d list` prints the same. This page is generated
from the converters: `python docs/dataset_page.py`.

    samora_convert -d NAME [-i SOURCE] [--id N] [--dry-run] [--overwrite]

SOURCE is the folder of the download (default `ROOT/downloads/NAME`). `--dry-run` says what would be written and writes
nothing. Hidden files, such as the `._` twins that macOS leaves in archives, are passed over.

Home ids in use: {used}. Free for a new converter: {free}. Numbers from 100 are given to datasets without a home.
"""


def homes(converters: Iterable[Converter]) -> dict[int, str]:
    """The converter at each home id.

    Raises:
        ValueError: two converters with one home id.
    """
    found = dict.fromkeys((10 + number for number in TASKS), "Decathlon")
    for converter in converters:
        if converter.home is not None and found.setdefault(converter.home, converter.name) != converter.name:
            raise ValueError(f"{found[converter.home]} and {converter.name} have the home id {converter.home}")
    return dict(sorted(found.items()))


def as_page(converters: Sequence[Converter]) -> str:
    """The page in Markdown: one section for each converter."""
    used = homes(converters)
    names = dict.fromkeys(used.values())
    listed = ", ".join(f"{_ranges([n for n in used if used[n] == name])} {name}" for name in names)
    introduction = _INTRODUCTION.format(used=listed, free=_ranges([n for n in range(1, 100) if n not in used]))
    return introduction + "".join(_section(converter) for converter in converters)


def _ranges(numbers: list[int]) -> str:
    starts = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    return ", ".join(f"{a} to {b}" if b > a else str(a) for a, b in zip(starts, ends, strict=True))


def _section(converter: Converter) -> str:
    blocks = [f"## {converter.name}", converter.summary]
    bullets: list[str] = []
    for fact in facts(converter):
        if fact.text:
            bullets.append(f"- {fact.title}: {fact.text}")
            continue
        blocks += ["\n".join(bullets), _block(fact)]
        bullets = []
    return "".join(f"\n{block}\n" for block in (*blocks, "\n".join(bullets)) if block)


def _block(fact: Fact) -> str:
    if fact.lines:
        return "\n".join([f"{fact.title[:1].upper()}{fact.title[1:]}:\n", "```", *fact.lines, "```"])
    head, *rows = fact.rows
    return "\n".join([_row(head), "|" + "---|" * len(head), *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    write_text(PAGE, as_page(load_converters()))
