"""config.json of a fold folder: everything that determined a run, and all that prediction needs besides weights."""

from dataclasses import dataclass, field
from typing import Any, Literal

from samora_pipeline.contracts.json_io import essential
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import Level, NetworkSpec
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.pool import PoolIntensity
from samora_pipeline.contracts.splits import Selection
from samora_pipeline.files import digest_json

CONFIG_FILE = "config.json"
FINAL_CHECKPOINT = "checkpoint_final.safetensors"
LATEST_CHECKPOINT = "checkpoint_latest.safetensors"
BASE_FILE = "base.safetensors"
VALIDATION_FOLDER = "validation"
SUMMARY_FILE = "summary.json"
KEY_LENGTH = 12
"""characters of a digest that name a folder"""

PHANTOM_FLAG = "PHANTOM"
TRANSDUCTIVE_FLAG = "TRANSDUCTIVE"
BOOTSTRAP_FLAG = "BOOTSTRAPPED BASE"
LEAK_FLAG = "LEAKY"
TRAINING_FLAG = "SCORED ON TRAINING CASES"
POOL_FLAGS = frozenset({PHANTOM_FLAG, TRANSDUCTIVE_FLAG, LEAK_FLAG})
"""those that follow from the data that stage 1 learns from"""
RANDOM_TEACHER_FLAG = "TEACHER FROM RANDOM WEIGHTS"
UNTRAINED_TEACHER_FLAG = "UNTRAINED TEACHER"


@dataclass(frozen=True)
class BaseRecord:
    """The frozen base encoder: its name, the digest of its file and where it came from."""

    name: str
    digest: str
    origin: Literal["public", "packaged", "bootstrap", "file"]


@dataclass(frozen=True)
class TeacherRecord:
    """What the expert of a level learned from.

    ``weights`` and ``origin`` are those that the teacher started from, ``licence`` their terms (empty: unknown or
    none). ``identity`` stands for these weights in keys; ``continued``: whether it was trained on the pool first.
    """

    network: str
    weights: str
    origin: Literal["public", "packaged", "file", "random"]
    licence: str = ""
    identity: str = ""
    continued: bool = True


@dataclass(frozen=True)
class PoolRecord:
    """The unlabelled pool of stage 1: cases per dataset, and those kept out because of what is scored.

    ``copies`` are cases left out because the pool holds the same scan already. ``slices`` is how many were asked for
    (None: all that show something), ``missing`` the datasets of the paper's pool that were not there. ``key`` names
    the manifest with the slices themselves (``contracts.pool``).
    """

    cases: dict[str, tuple[str, ...]]
    excluded: tuple[str, ...]
    transductive: bool = False
    copies: tuple[str, ...] = ()
    slices: int | None = None
    intensity: PoolIntensity = "plan"
    missing: tuple[str, ...] = ()
    key: str = ""


@dataclass(frozen=True)
class StageRecord:
    """One stage of a run: its name, the class that ran it, and its resolved settings as plain JSON.

    ``digest`` identifies everything that changes the result of a stage that runs can share; empty for the others.
    """

    name: str
    kind: str
    digest: str
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        """What names the folder of its result."""
        return self.digest[:KEY_LENGTH]


@dataclass(frozen=True)
class Choice:
    """A value that the run chose by itself when it was first started, with the reason."""

    value: Any
    why: str


@dataclass(frozen=True)
class Estimate:
    """What a stage was predicted to take on the machine where it was last started.

    ``gib`` at the peak: of the device's allocator on CUDA, of the whole process on a CPU, as ``memory_gib`` in its log.
    ``disk_gib``: of its checkpoints. ``how``: slices at a time, and whether activations are computed again, in words.
    """

    minutes: float
    gib: float
    how: str = ""
    disk_gib: float = 0.0


@dataclass(frozen=True)
class TaughtBy:
    """A teacher of self-training, or a run that another one starts from: ``DatasetNNN_Name/RUN/fold_K``, the digest of
    its checkpoint, and what it has seen.

    ``seen`` are cases, labelled or not; those of other datasets than the run's own carry their dataset's name.
    """

    run: str
    checkpoint: str
    seen: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunConfig:
    """One run of one fold.

    ``base`` is None where the network is no SAM. ``stages`` are what trained it, in order, after ``--set``;
    ``teachers`` gives, per level, what its expert learned from. ``choices`` are settings that nobody gave, and
    ``estimates`` the predictions for the stages that had to be trained, by name.
    ``warnings`` are printed on every score and picture. ``excluded_leaks`` and ``allowed_leaks`` are cases that
    overlap the scored ones (``contracts.leakage``), excluded or included by name. ``held_out`` are labelled training
    cases that are not trained on: post-processing is chosen on them. ``taught_by``: finished runs whose soft labels
    are trained on. ``started_from``: the finished run whose weights, experts included, are its first ones.
    """

    dataset: str
    trainer: str
    split: str
    fold: str
    name: str
    recipe: str
    seed: int
    model: NetworkSpec
    base: BaseRecord | None
    plans: Plans
    labels: LabelScheme
    file_ending: str
    selection: Selection
    scored: tuple[str, ...]
    pool: PoolRecord
    stages: tuple[StageRecord, ...] = ()
    teachers: dict[str, TeacherRecord] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    estimates: dict[str, Estimate] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    excluded_leaks: tuple[str, ...] = ()
    allowed_leaks: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    taught_by: tuple[TaughtBy, ...] = ()
    started_from: TaughtBy | None = None
    schema_version: int = 2

    @property
    def base_digest(self) -> str:
        """The digest of the base encoder; empty without one."""
        return self.base.digest if self.base is not None else ""

    @property
    def deciding_digest(self) -> str:
        """Covers all that decides a prediction besides weights: network, base, labels, and the values of the plan.

        It is kept with the final checkpoint, which therefore belongs to this description and to no other.
        """
        values = {name: essential(planned.value) for name, planned in self.plans.planned.items()}
        return digest_json(
            {
                "model": {"kind": self.model.kind, **essential(self.model)},
                "base": self.base_digest,
                # Pairs, because the order of the names is that of the outputs.
                "labels": [[name, list(values)] for name, values in self.labels.foreground],
                "others": [self.labels.ignore, list(self.labels.region_order)],
                "channels": list(self.plans.channel_names),
                "plan": values,
            }
        )

    @property
    def experts(self) -> dict[Level, StageRecord]:
        """The stages that trained an expert, by level."""
        found = {level: self.stage(f"expert_{level.value}") for level in Level}
        return {level: record for level, record in found.items() if record is not None}

    def stage(self, name: str) -> StageRecord | None:
        """The stage called ``name``, None where the run has none."""
        return next((record for record in self.stages if record.name == name), None)
