"""What the converters state about themselves, as a page (docs/datasets.md) and as text for ``samora_convert -d list``.

``python -m dataset_conversion.catalogue_page`` writes the page anew; a test compares it with the converters.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_conversion.converter import Converter, load_converters
from dataset_conversion.file_names import shortened
from samora_pipeline.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "datasets.md"

# Lists up to this length stand on the page whole; all are in dataset_conversion/lists.
_SHOWN = 40

_INTRODUCTION = """# Datasets

What each converter expects and what it makes of it; `samora_convert -d list` prints the same. This page is generated
from the converters: `python -m dataset_conversion.catalogue_page`.

    samora_convert -d NAME [-i SOURCE] [--id N] [--dry-run] [--overwrite]

SOURCE is the folder of the download (default `ROOT/downloads/NAME`). `--dry-run` says what would be written and writes
nothing. Hidden files, such as the `._` twins that macOS leaves in archives, are passed over.
"""


@dataclass(frozen=True)
class Fact:
    """One thing a converter states: a sentence, verbatim lines, or a table whose first row is its head."""

    title: str
    text: str = ""
    lines: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def facts(converter: Converter) -> list[Fact]:
    """Everything a converter states, in the order of the page; what it leaves open is left out."""
    stated = [
        Fact("number", converter.numbering or f"home id {converter.home}"),
        Fact("source", converter.page),
        Fact("terms", converter.terms),
        Fact("cite", converter.citation),
        Fact("channels", ", ".join(converter.channels)),
        Fact("labels", rows=_labels(converter)),
        *_published(converter),
        Fact("expected folder", lines=tuple(converter.tree.splitlines())),
        Fact("options", rows=_options(converter)),
        *(Fact("note", remark) for remark in converter.remarks),
    ]
    return [fact for fact in stated if fact.text or fact.lines or fact.rows]


def as_page(converters: Iterable[Converter]) -> str:
    """The page in Markdown: one section for each converter."""
    return _INTRODUCTION + "".join(_section(converter) for converter in converters)


def as_lines(converter: Converter) -> list[str]:
    """The same facts as plain lines."""
    lines = [f"{converter.name}  {converter.summary}"]
    for fact in facts(converter):
        lines.append(f"  {fact.title}: {fact.text}".rstrip())
        lines += [f"    {line}" for line in (*fact.lines, *_aligned(fact.rows))]
    return lines


def main() -> None:
    """Write docs/datasets.md."""
    write_text(PAGE, as_page(load_converters()))


def _labels(converter: Converter) -> tuple[tuple[str, ...], ...]:
    """Value and name of each label, and the values that it has in each kind of source."""
    maps = converter.label_maps
    if not maps:
        return ()
    names = next(iter(maps.values())).labels
    rows = [("value", "label", *maps)]
    for name, value in names.items():
        sources = [label_map.values.get(name, (0,) if value == 0 else ()) for label_map in maps.values()]
        rows.append((str(value), name, *(", ".join(map(str, values)) for values in sources)))
    return tuple(rows)


def _published(converter: Converter) -> list[Fact]:
    published = converter.published()
    if published is None:
        return []
    stated = [Fact("published lists", published.origin)]
    if published.split is not None:
        for part, cases in (("training", published.split.train), ("test", published.split.test)):
            stated.append(Fact(f"fold official, {part}", f"{len(cases)} cases: {shortened(cases, _SHOWN)}"))
    for name, budget in published.budgets.items():
        slices = sum(map(len, budget.slices.values()))
        what = f"{slices} slices of {len(budget.cases)} cases" if slices else ", ".join(budget.cases)
        stated.append(Fact(f"split {name}", what))
    return stated


def _options(converter: Converter) -> tuple[tuple[str, ...], ...]:
    parser = argparse.ArgumentParser(add_help=False)
    converter.add_options(parser)
    rows = [(action.option_strings[0], (action.help or "").replace("%%", "%")) for action in parser._actions]
    return (("option", "meaning"), *rows) if rows else ()


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


def _aligned(rows: tuple[tuple[str, ...], ...]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


if __name__ == "__main__":
    main()
