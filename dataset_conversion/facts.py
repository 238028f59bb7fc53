"""What a converter states about itself: for ``samora_convert -d list`` and for the page docs/datasets.md."""

import argparse
from dataclasses import dataclass

from dataset_conversion.converter import Converter
from dataset_conversion.survey import shortened
from samora_pipeline.command_line import aligned

# Lists up to this length stand on the page whole; all are in dataset_conversion/lists.
_SHOWN = 40


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


def as_lines(converter: Converter) -> list[str]:
    """The same facts as plain lines."""
    lines = [f"{converter.name}  {converter.summary}"]
    for fact in facts(converter):
        lines.append(f"  {fact.title}: {fact.text}".rstrip())
        lines += [f"    {line}" for line in (*fact.lines, *aligned(fact.rows))]
    return lines


def _labels(converter: Converter) -> tuple[tuple[str, ...], ...]:
    """Value and name of each label, and the values that it has in each kind of source."""
    maps = converter.label_maps
    if not maps:
        return ()
    rows = [("value", "label", *maps)]
    for name, value in next(iter(maps.values())).labels.items():
        sources = [label_map.values.get(name, (0,) if value == 0 else ()) for label_map in maps.values()]
        rows.append((str(value), name, *(", ".join(map(str, values)) for values in sources)))
    return tuple(rows)


def _published(converter: Converter) -> list[Fact]:
    published = converter.published()
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
