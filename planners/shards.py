"""Sharing out the cases of a dataset over several machines: ``--shard i/n`` on each, then ``--merge``.

Which shard a case belongs to follows from its name alone. Every shard learns about all cases (its own are measured
first, then those that no other shard has measured yet), so all of them reach the same plan without talking to each
other; each stores its own cases only and leaves a record. The merge compares the records and checks every case.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from planners.cases import CaseSource
from samora_pipeline.contracts.fingerprint import Fingerprint
from samora_pipeline.contracts.json_io import read_json, to_plain, write_json
from samora_pipeline.contracts.plans import Planned, Plans
from samora_pipeline.errors import DataError, UsageError

SHARDS_FOLDER = ".shards"

_SHARD = re.compile(r"^(?P<index>[1-9]\d{0,5})/(?P<count>[1-9]\d{0,5})$")


@dataclass(frozen=True)
class Shard:
    """The part ``index`` (from 1) of ``count``."""

    index: int
    count: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """Read ``i/n``.

        Raises:
            UsageError: ``E-ARG-04`` for anything else.
        """
        match = _SHARD.match(text)
        if match is None or int(match["index"]) > int(match["count"]):
            raise UsageError("E-ARG-04", f"{text!r} is no shard", found=f"--shard {text}", expected="1/N to N/N")
        return cls(int(match["index"]), int(match["count"]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owns(self, case: str) -> bool:
        """Whether a case belongs to this shard."""
        return owner(case, self.count) == self.index

    def order(self, sources: Sequence[CaseSource]) -> list[CaseSource]:
        """The cases in the order in which this shard measures them: its own, then the others from the end.

        Their owner works on them from the beginning, so that the two rarely meet.
        """
        own = [source for source in sources if self.owns(source.name)]
        return own + [source for source in reversed(sources) if not self.owns(source.name)]


@dataclass(frozen=True)
class ShardRecord:
    """What a shard leaves when it has stored its cases: the plan it reached and the fingerprint it came from."""

    index: int
    count: int
    plans: Plans
    fingerprint: Fingerprint
    schema_version: int = 1


def owner(case: str, count: int) -> int:
    """The number (from 1) of the shard that a case belongs to."""
    return int.from_bytes(hashlib.sha256(case.encode()).digest()[:8], "big") % count + 1


def write_record(target: Path, record: ShardRecord) -> None:
    """Leave the record of a finished shard in a preprocessed folder."""
    write_json(record, target / SHARDS_FOLDER / f"{record.index}-of-{record.count}.json")


def agreed_record(target: Path, dataset: str) -> ShardRecord:
    """Read the records of all shards and return what all of them say.

    Raises:
        DataError: ``E-SHARD-01`` there is none, ``E-SHARD-02`` some are missing, ``E-SHARD-03`` they do not agree.
    """
    records = [read_json(ShardRecord, path) for path in sorted((target / SHARDS_FOLDER).glob("*-of-*.json"))]
    if not records:
        raise DataError(
            "E-SHARD-01",
            f"no shard of {dataset} has finished",
            found=f"no record in {target / SHARDS_FOLDER}",
            expected="the records of all shards",
            fix=f"samora_plan_and_preprocess -d {dataset} --shard 1/2  and  --shard 2/2",
        )
    counts = sorted({record.count for record in records})
    if len(counts) > 1:
        raise _disagree(dataset, f"parts of {' and of '.join(str(count) for count in counts)} shards")
    present = {record.index for record in records}
    if missing := [index for index in range(1, counts[0] + 1) if index not in present]:
        raise _incomplete(dataset, f"shards {_listed(missing)} of {counts[0]} have not finished", missing, counts[0])
    for other in records[1:]:
        if differences := _differences(records[0], other):
            found = f"shards {records[0].index} and {other.index} differ in {', '.join(differences)}"
            raise _disagree(dataset, found)
    return records[0]


def incomplete_cases(dataset: str, cases: Iterable[str], count: int) -> DataError:
    """The error for cases that are not stored, with the commands that store them (``E-SHARD-02``)."""
    names = sorted(cases)
    found = f"{len(names)} cases are not stored or damaged: {', '.join(names[:10])}{' ...' if names[10:] else ''}"
    return _incomplete(dataset, found, sorted({owner(name, count) for name in names}), count)


def _differences(first: ShardRecord, other: ShardRecord) -> list[str]:
    named = [
        f"{field.name} ({one.value} and {two.value})"
        for field in fields(Plans)
        for one, two in [(getattr(first.plans, field.name), getattr(other.plans, field.name))]
        if isinstance(one, Planned) and to_plain(one) != to_plain(two)
    ]
    if not named and (first.plans, first.fingerprint) != (other.plans, other.fingerprint):
        named = ["the cases that were measured"]
    return named


def _incomplete(dataset: str, found: str, missing: Sequence[int], count: int) -> DataError:
    commands = [f"samora_plan_and_preprocess -d {dataset} --shard {index}/{count}" for index in missing]
    return DataError(
        "E-SHARD-02",
        f"{dataset} is not complete; it was not merged",
        found=found,
        expected="every case stored by its shard",
        fix="; ".join(commands[:5]) + ("; ..." if commands[5:] else ""),
    )


def _disagree(dataset: str, found: str) -> DataError:
    return DataError(
        "E-SHARD-03",
        f"the shards of {dataset} were made for different plans; they were not merged",
        found=found,
        expected="the same files, the same --set and the same number of shards everywhere",
        fix=f"run the shards of {dataset} again with the same options, or run the command once without --shard",
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers[:20]) + (" ..." if numbers[20:] else "")
