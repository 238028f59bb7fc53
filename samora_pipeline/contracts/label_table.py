"""The label table: value, name and colour of everything that may stand in a label file, the same for every viewer."""

from dataclasses import dataclass

from samora_pipeline.contracts.colours import GREY, Rgb, label_colour
from samora_pipeline.contracts.labels import IGNORE, LabelScheme


@dataclass(frozen=True)
class LabelEntry:
    """One value of a label file, the name and the colour (red, green, blue; 0 to 255) that it is shown with."""

    value: int
    name: str
    colour: Rgb


LabelTable = tuple[LabelEntry, ...]


def label_table(scheme: LabelScheme) -> LabelTable:
    """The table of a label scheme, by value; background is no entry.

    Colours go by the order of the network's outputs, as in the reports. A region is painted with its value of
    ``region_order`` and later regions over it, so what keeps the value is the region without those; the name says so.
    """
    names = [name for name, _ in scheme.foreground]
    if scheme.regions:
        painted = [
            LabelEntry(value, _remainder(names, scheme.region_order, index), label_colour(index))
            for index, value in enumerate(scheme.region_order)
        ]
        # Two regions may be painted with one value; the later one is what is seen.
        entries = list({entry.value: entry for entry in painted}.values())
    else:
        entries = [
            LabelEntry(values[0], name, label_colour(index)) for index, (name, values) in enumerate(scheme.foreground)
        ]
    if scheme.ignore is not None:
        entries.append(LabelEntry(scheme.ignore, IGNORE, GREY))
    return tuple(sorted(entries, key=lambda entry: entry.value))


def _remainder(names: list[str], order: tuple[int, ...], index: int) -> str:
    later = [name for name, value in zip(names[index + 1 :], order[index + 1 :], strict=True) if value != order[index]]
    return f"{names[index]} without {', '.join(later)}" if later else names[index]
