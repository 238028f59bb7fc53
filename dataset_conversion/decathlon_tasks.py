"""The ten tasks of the decathlon as they are distributed: what a copy is compared with.

Channels and labels are spelled as in each task's dataset.json; numbers of cases are those of its lists. Antonelli et
al., The Medical Segmentation Decathlon, Nature Communications 13:4128, 2022, Table 1 counts a few cases more.
"""

from __future__ import annotations

from dataclasses import dataclass

LITS_TASK = 3


@dataclass(frozen=True)
class Task:
    """One task: its name, channels and labels in order, and its numbers of training and test cases."""

    name: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    training: int
    test: int


TASKS: dict[int, Task] = {
    1: Task(
        "BrainTumour",
        ("FLAIR", "T1w", "t1gd", "T2w"),
        ("edema", "non-enhancing tumor", "enhancing tumour"),
        484,
        266,
    ),
    2: Task("Heart", ("MRI",), ("left atrium",), 20, 10),
    3: Task("Liver", ("CT",), ("liver", "cancer"), 131, 70),
    4: Task("Hippocampus", ("MRI",), ("Anterior", "Posterior"), 260, 130),
    5: Task("Prostate", ("T2", "ADC"), ("PZ", "TZ"), 32, 16),
    6: Task("Lung", ("CT",), ("cancer",), 63, 32),
    7: Task("Pancreas", ("CT",), ("pancreas", "cancer"), 281, 139),
    8: Task("HepaticVessel", ("CT",), ("Vessel", "Tumour"), 303, 140),
    9: Task("Spleen", ("CT",), ("spleen",), 41, 20),
    10: Task("Colon", ("CT",), ("colon cancer primaries",), 126, 64),
}


def compare(number: int, channels: tuple[str, ...], labels: tuple[str, ...], training: int, test: int) -> list[str]:
    """Sentences about what a copy of task ``number`` has otherwise than the distributed one; none for others."""
    task = TASKS.get(number)
    if task is None:
        return []
    notes = []
    for what, here, there in (("channels", channels, task.channels), ("labels", labels, task.labels)):
        if [name.lower() for name in here] != [name.lower() for name in there]:
            notes.append(f"{what} {', '.join(here)} are not those of the distributed task ({', '.join(there)})")
    for part, count, full in (("training", training, task.training), ("test", test, task.test)):
        if count != full:
            notes.append(f"{count} of the {full} distributed {part} cases are listed in this copy")
    return notes
