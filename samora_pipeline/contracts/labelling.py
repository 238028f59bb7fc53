"""A round of labelling on disk: the slices that a hand-over folder asks for, the verdicts on them, and past rounds.

``FOLDER/{round.json, slices.csv, slices.png, itksnap_labels.txt, scans/CASE/..., given/CASE/...}``: an annotator
works in ``scans``; ``given`` keeps what was handed over, so that each change is seen.
"""

from dataclasses import dataclass, field
from typing import Literal

from samora_pipeline.contracts.label_table import LabelTable
from samora_pipeline.contracts.plans import SliceAxis

ROUND_FILE = "round.json"
VERDICTS_FILE = "verdicts.json"
SCANS_FOLDER = "scans"
GIVEN_FOLDER = "given"
HISTORY_FILE = "labelling.json"
"""in the raw dataset, beside samora.json"""
MAP_ENDING = "_labels.nii.gz"
PROPOSAL_ENDING = "_proposal.seg.nrrd"
Verdict = Literal["accept", "needs work"]


@dataclass(frozen=True)
class AskedSlice:
    """A slice to be labelled. ``index`` counts from 0 along the axis of the file that the case's ``axis`` names.

    ``score``: the entropy that it was chosen by (mean over the slice, 1 is the largest possible), None without a model.
    ``position``: where the slice lies along that axis, RAS mm as viewers show it.
    """

    case: str
    index: int
    reason: str
    position: float
    score: float | None = None


@dataclass(frozen=True)
class HandedCase:
    """A scan as it was handed over. ``axis`` (0, 1, 2) is the file's axis that its slices are counted along.

    ``images``: the name of each channel's file and the digest of its voxels (``imaging.volume.digest_voxels``).
    ``given``: the SHA-256 of each file that may be edited, by its name.
    """

    plane: SliceAxis
    axis: int
    images: dict[str, str]
    given: dict[str, str]


@dataclass(frozen=True)
class Round:
    """round.json: the slices of a hand-over folder; ``run`` is the model that proposed (empty: none).

    ``number``: how many rounds were added before. ``identity`` stands for all of it in verdicts.json.
    """

    dataset: str
    identity: str
    number: int
    run: str
    labels: LabelTable
    ignore: int
    cases: dict[str, HandedCase]
    slices: tuple[AskedSlice, ...]
    schema_version: int = 1

    def asked(self, case: str) -> tuple[int, ...]:
        """The slices that are asked for in a case, in order."""
        return tuple(sorted(one.index for one in self.slices if one.case == case))


@dataclass(frozen=True)
class SliceVerdict:
    """What an annotator says of a proposed slice."""

    case: str
    index: int
    verdict: Verdict


@dataclass(frozen=True)
class Verdicts:
    """verdicts.json, as the page of a round exports it; ``identity`` is that of the round."""

    identity: str
    slices: tuple[SliceVerdict, ...]
    schema_version: int = 1


@dataclass(frozen=True)
class AddedRound:
    """What a round added: by case the slices with a new label, and the voxels that got one or another one."""

    identity: str
    run: str
    date: str
    slices: dict[str, tuple[int, ...]]
    voxels: int


@dataclass(frozen=True)
class History:
    """labelling.json of a raw dataset: the rounds that were added, in order."""

    rounds: tuple[AddedRound, ...] = field(default_factory=tuple)
    schema_version: int = 1
