"""What an outside program is given, and what a runner of one has to say: its commands, in order."""

import shlex
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from samora_pipeline.errors import UsageError

Words = list[str]


@dataclass(frozen=True)
class Workplace:
    """The folders of one run, all below ``folder``.

    ``raw`` is a raw dataset of nnU-Net's form with the labelled cases alone, ``images`` holds the scans to predict, and
    ``predictions`` is to hold CASE + ``ending`` for each of them. ``cases`` are the labelled ones.
    """

    folder: Path
    dataset: str
    cases: tuple[str, ...]
    ending: str
    seed: int

    @property
    def raw(self) -> Path:
        """DatasetNNN_Name with imagesTr, labelsTr and dataset.json."""
        return self.folder / "raw" / self.dataset

    @property
    def images(self) -> Path:
        """The scans that are scored, without labels."""
        return self.folder / "images"

    @property
    def predictions(self) -> Path:
        """Where the program writes its label maps."""
        return self.folder / "predictions"


class Runner(Protocol):
    """One outside program."""

    @property
    def method(self) -> str:
        """Its name in folders and tables."""
        ...

    @property
    def predicts_last(self) -> bool:
        """Whether the seconds of the last command are those of the prediction."""
        ...

    def record(self) -> dict[str, Any]:
        """What decides the result, versions included, as plain JSON."""
        ...

    def environment(self, place: Workplace) -> dict[str, str]:
        """Variables that the commands need."""
        ...

    def commands(self, place: Workplace) -> Iterator[Words]:
        """What is still to be run; each is taken after the one before it has succeeded."""
        ...


@dataclass(frozen=True)
class CommandRunner:
    """Any program: command lines with placeholders, run again from the first one until all label maps are there.

    Placeholders: ``{train}`` the folder with imagesTr, labelsTr and dataset.json, ``{images}`` the scans to predict,
    ``{predictions}`` where label maps are written, ``{work}`` a folder for anything else, ``{seed}``.

    Raises:
        UsageError: ``E-EXT-01`` no command, none that writes predictions, or another placeholder.
    """

    method: str
    lines: tuple[str, ...]
    predicts_last: bool = False

    def __post_init__(self) -> None:
        named = [name for line in self.lines for _, name, _, _ in string.Formatter().parse(line) if name is not None]
        unknown = sorted(set(named) - {"train", "images", "predictions", "work", "seed"})
        if unknown or "predictions" not in named:
            found = ", ".join(unknown) or f"{len(self.lines)} commands without {{predictions}}"
            raise UsageError("E-EXT-01", found=found)

    def record(self) -> dict[str, Any]:
        """The command lines as typed."""
        return {"commands": list(self.lines)}

    def environment(self, place: Workplace) -> dict[str, str]:
        """Nothing."""
        return {}

    def commands(self, place: Workplace) -> Iterator[Words]:
        """Each line in words; placeholders are put in after it is split, so that paths stay whole."""
        values = {
            "train": str(place.raw),
            "images": str(place.images),
            "predictions": str(place.predictions),
            "work": str(place.folder / "work"),
            "seed": str(place.seed),
        }
        for line in self.lines:
            yield [word.format(**values) for word in shlex.split(line)]
