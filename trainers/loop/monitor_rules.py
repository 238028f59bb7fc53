"""What each monitor of stage 1 means, from where on it is a warning, and what to do then. The thresholds are ours."""

import math
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from samora_pipeline.contracts.monitoring import Measure, Verdict

MEANINGS = {
    "gap": "loss with LoRA off minus on, as a share of the loss with it off: what the expert itself has learned",
    "loss_off": "loss on the panel with LoRA off",
    "loss_on": "loss on the panel with LoRA on",
    "loss": "loss on the panel",
    "loss_ratio": "training loss of the last epoch over that of the first",
    "accuracy": "share of views whose partner is the nearest of all other views",
    "accuracy_over_chance": "the same over that of guessing",
    "chance_accuracy": "the share that guessing would reach",
    "loss_below_chance": "log of the number of candidates, the loss before anything is learned, minus the loss",
    "alignment": "mean squared distance of partners on the unit sphere: 0 the same, 2 unrelated",
    "uniformity": "log of the mean Gaussian potential of all pairs: lower is more even, 0 is collapsed",
    "embedding_spread": "spread of normalised embeddings per dimension times sqrt(D): 1 even, 0 collapsed",
    "embedding_rank": "effective rank of the embeddings (RankMe)",
    "embedding_rank_share": "the same as a share of what the panel allows",
    "feature_spread": "spread of normalised features per dimension times sqrt(D)",
    "feature_rank": "effective rank of the features (RankMe)",
    "explained": "share of what the mean of the target leaves unexplained that is explained",
    "cosine": "mean cosine between the student's and the teacher's features",
    "teacher_similarity": "linear CKA of the student's and the teacher's pooled features: 1 the same",
    "teacher_similarity_gain": "how much of it is owed to LoRA",
    "noisy": "loss of leaving the noise as it is",
    "psnr": "PSNR of the restored slices in dB",
    "psnr_gain": "the same minus that of the noisy slices",
    "ssim": "SSIM of the restored slices",
    "ssim_gain": "the same minus that of the noisy slices",
    "lora_smallest": "smallest |BA| / |W| of all blocks that the objective reaches",
    "lora_largest": "largest |BA| / |W| of all blocks",
    "position_error": "axial position read off the nearest slices of other scans, mean error (share of the scan)",
    "position_error_over_chance": "the same over that of the median position; neighbours at random give about 1.1",
    "position_error_off": "the same with LoRA off",
    "dataset_accuracy": "dataset read off the nearest slices of other scans, share that is right",
    "dataset_chance": "the share of the most frequent dataset",
    "skipped_steps": "steps that were not finite and left out",
    "data_wait": "share of the time that the device waited for slices",
    "monitor_share": "time spent on these monitors, as a share of the stage",
    "similarity": "largest CKA of two experts: 1 means that they learned the same",
    "least_change": "1 - CKA with the plain base of the expert nearest to it",
}

_LONGER = "train longer, raise the rate, or use more slices"
_COLLAPSE = "lower the learning rate, or use a larger batch or temperature"
_PLATEAU = "a plateau here on several devices means that gathering fails"

Change = tuple[str, float]
"""a setting of the stage, and what to multiply it by"""
_MORE_EPOCHS, _HIGHER_RATE, _LOWER_RATE = ("epochs", 2.0), ("learning_rate", 2.0), ("learning_rate", 0.5)
_LARGEST_PANEL = 32
_SHORT_WAIT = 10.0  # seconds; what opening the files takes is no slow disk


@dataclass(frozen=True)
class Sample:
    """What a stage was judged on: slices of its panel, the share that guessing a partner would reach, seconds."""

    panel: int = _LARGEST_PANEL
    chance: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Rule:
    """``least`` or ``most`` is what is still no warning, ``advice`` what to do about one, ``change`` that as a setting.

    ``fitted`` moves the threshold to what a small sample can show, with the reason.
    """

    advice: str
    least: float | None = None
    most: float | None = None
    change: Change | None = None
    fitted: Callable[[Sample], tuple[float, str]] | None = None


def _pairing(sample: Sample) -> tuple[float, str]:
    """Five times chance, or half of what so few candidates allow."""
    most = 1 / sample.chance if sample.chance else 2 * sample.panel - 1
    return (5.0, "") if most >= 10 else (most / 2, f"half of the {most:.3g} that {sample.panel} slices allow")


def _below_chance(sample: Sample) -> tuple[float, str]:
    """Half a nat, or a quarter of what guessing among so few candidates costs."""
    cost = -math.log(sample.chance) if sample.chance else math.log(max(2, 2 * sample.panel - 1))
    return (0.5, "") if cost >= 2 else (cost / 4, f"a quarter of the {cost:.2g} that guessing among so few costs")


def _waiting(sample: Sample) -> tuple[float, str]:
    """A fifth of the time, or ten seconds in all."""
    if sample.seconds is None or sample.seconds >= _SHORT_WAIT / 0.2:
        return 0.2, ""
    return min(1.0, _SHORT_WAIT / max(sample.seconds, 1e-9)), f"{_SHORT_WAIT:g} s of waiting say nothing of a disk"


RULES: dict[str, Rule] = {
    "gap": Rule(
        f"the expert hardly helps its own task, the head does it alone: {_LONGER}", least=0.01, change=_MORE_EPOCHS
    ),
    "loss_ratio": Rule(_LONGER, most=1.0, change=_MORE_EPOCHS),
    "accuracy_over_chance": Rule(f"views do not pair: {_LONGER}", least=5.0, change=_MORE_EPOCHS, fitted=_pairing),
    "loss_below_chance": Rule(
        f"nothing is learned yet: {_LONGER}; {_PLATEAU}", least=0.5, change=_MORE_EPOCHS, fitted=_below_chance
    ),
    "embedding_spread": Rule(_COLLAPSE, least=0.1, change=_LOWER_RATE),
    "embedding_rank_share": Rule(f"few directions are used: {_COLLAPSE}", least=0.1, change=_LOWER_RATE),
    "explained": Rule(_LONGER, least=0.02, change=_MORE_EPOCHS),
    "teacher_similarity_gain": Rule(
        f"the student moves away from its teacher on the panel: {_LONGER}", least=0.0, change=_MORE_EPOCHS
    ),
    "psnr_gain": Rule(f"the restored slices are worse than the noisy ones: {_LONGER}", least=0.0, change=_MORE_EPOCHS),
    "ssim_gain": Rule(_LONGER, least=0.0, change=_MORE_EPOCHS),
    "lora_smallest": Rule(
        "a block's LoRA has stayed at zero: raise the learning rate", least=1e-4, change=_HIGHER_RATE
    ),
    "lora_largest": Rule("the expert overwrites the base: lower the learning rate", most=1.0, change=_LOWER_RATE),
    "position_error_over_chance": Rule(
        f"the features ignore where a slice lies in the body: {_LONGER}",
        most=1.25,
        change=_MORE_EPOCHS,
    ),
    "skipped_steps": Rule(
        "the log names their slices; lower the learning rate, or set clip_norm", most=0.0, change=_LOWER_RATE
    ),
    "data_wait": Rule("put the store on a faster disk", most=0.2, fitted=_waiting),
    "similarity": Rule("drop one with --levels", most=0.995),
    "least_change": Rule(f"it has not moved: {_LONGER}", least=1e-4),
}


def judge(values: Mapping[str, float], sample: Sample | None = None) -> tuple[Measure, ...]:
    """Numbers with their rules applied, in the order of ``values``; thresholds fit the sample (None: a large one)."""
    seen = replace(sample or Sample(), chance=values.get("chance_accuracy"))
    return tuple(_measure(name, value, seen) for name, value in values.items())


def verdict(measures: tuple[Measure, ...]) -> Verdict:
    """``warn`` if any measure is."""
    return "warn" if any(measure.passed is False for measure in measures) else "pass"


def changes(measures: Iterable[Measure], settings: Mapping[str, Any]) -> dict[str, float]:
    """Settings that the failed measures ask for, from those that were used; the first measure decides on each."""
    wanted: dict[str, float] = {}
    for measure in measures:
        change = RULES[measure.name].change if measure.passed is False else None
        if change is not None and change[0] in settings:
            used = settings[change[0]]
            wanted.setdefault(change[0], round(used * change[1]) if isinstance(used, int) else used * change[1])
    return wanted


def mending_command(stage: str, wanted: Mapping[str, float], resume_command: str) -> str:
    """The command of a run with what its monitors ask for, under a name of its own; empty where nothing is."""
    if not (wanted and resume_command):
        return ""
    words = [word for word in shlex.split(resume_command) if word != "-c"]
    if "--name" in words:
        words[words.index("--name") + 1] += "-mended"
    for name, value in wanted.items():
        words += ["--set", f"{stage}.{name}={value:g}"]
    return shlex.join(words)


def _measure(name: str, value: float, sample: Sample) -> Measure:
    rule = RULES.get(name)
    if rule is None:
        return Measure(name, value, "", None, MEANINGS[name], "")
    bound, why = rule.fitted(sample) if rule.fitted else (rule.most if rule.least is None else rule.least, "")
    if bound is None:
        raise ValueError(f"the rule of {name} has no threshold")
    passed = value <= bound if rule.least is None else value >= bound
    wanted = f"at {'most' if rule.least is None else 'least'} {bound:.3g}{f' ({why})' if why else ''}"
    return Measure(name, value, wanted, passed, MEANINGS[name], "" if passed else rule.advice)
