"""What each monitor of stage 1 means, from where on it is a warning, and what to do then. The thresholds are ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from samora_pipeline.contracts.pretraining_card import Measure, Verdict

_LONGER = "train longer, raise the rate, or use more slices"
_COLLAPSE = "lower the learning rate, or use a larger batch or temperature"


@dataclass(frozen=True)
class Rule:
    """``least`` and ``most`` are what is still no warning; without either a number is only shown."""

    meaning: str
    least: float | None = None
    most: float | None = None
    advice: str = ""


RULES: dict[str, Rule] = {
    "gap": Rule(
        "loss with LoRA off minus on, as a share of the loss with it off: what the expert itself has learned",
        least=0.01,
        advice=f"the expert hardly helps its own task, the head does it alone: {_LONGER}",
    ),
    "loss_off": Rule("loss on the panel with LoRA off"),
    "loss_on": Rule("loss on the panel with LoRA on"),
    "loss": Rule("loss on the panel"),
    "loss_ratio": Rule("training loss of the last epoch over that of the first", most=1.0, advice=_LONGER),
    "accuracy": Rule("share of views whose partner is the nearest of all other views"),
    "accuracy_over_chance": Rule("the same over that of guessing", least=5.0, advice=f"views do not pair: {_LONGER}"),
    "chance_accuracy": Rule("the share that guessing would reach"),
    "loss_below_chance": Rule(
        "log of the number of candidates, the loss before anything is learned, minus the loss",
        least=0.5,
        advice=f"nothing is learned yet: {_LONGER}; a plateau here on several devices means that gathering fails",
    ),
    "alignment": Rule("mean squared distance of partners on the unit sphere: 0 the same, 2 unrelated"),
    "uniformity": Rule("log of the mean Gaussian potential of all pairs: lower is more even, 0 is collapsed"),
    "embedding_spread": Rule(
        "spread of normalised embeddings per dimension times sqrt(D): 1 even, 0 collapsed", least=0.1, advice=_COLLAPSE
    ),
    "embedding_rank": Rule("effective rank of the embeddings (RankMe)"),
    "embedding_rank_share": Rule(
        "the same as a share of what the panel allows", least=0.1, advice=f"few directions are used: {_COLLAPSE}"
    ),
    "feature_spread": Rule("spread of normalised features per dimension times sqrt(D)"),
    "feature_rank": Rule("effective rank of the features (RankMe)"),
    "explained": Rule(
        "share of what the mean of the target leaves unexplained that is explained",
        least=0.02,
        advice=_LONGER,
    ),
    "cosine": Rule("mean cosine between the student's and the teacher's features"),
    "teacher_similarity": Rule("linear CKA of the student's and the teacher's pooled features: 1 the same"),
    "teacher_similarity_gain": Rule(
        "how much of it is owed to LoRA",
        least=0.0,
        advice=f"the student moves away from its teacher where the panel looks: {_LONGER}",
    ),
    "noisy": Rule("loss of leaving the noise as it is"),
    "psnr": Rule("PSNR of the restored slices in dB"),
    "psnr_gain": Rule(
        "the same minus that of the noisy slices",
        least=0.0,
        advice=f"the restored slices are worse than the noisy ones: {_LONGER}",
    ),
    "ssim": Rule("SSIM of the restored slices"),
    "ssim_gain": Rule("the same minus that of the noisy slices", least=0.0, advice=_LONGER),
    "lora_smallest": Rule(
        "smallest |BA| / |W| of all blocks that the objective reaches",
        least=1e-4,
        advice="a block's LoRA has stayed at zero: raise the learning rate",
    ),
    "lora_largest": Rule(
        "largest |BA| / |W| of all blocks",
        most=1.0,
        advice="the expert overwrites the base: lower the learning rate",
    ),
    "position_error": Rule("axial position read off the nearest slices of other scans, mean error (share of the scan)"),
    "position_error_over_chance": Rule(
        "the same over that of the median position; neighbours at random give about 1.1",
        most=1.25,
        advice=f"the features ignore where in the body a slice lies: {_LONGER}",
    ),
    "position_error_off": Rule("the same with LoRA off"),
    "dataset_accuracy": Rule("dataset read off the nearest slices of other scans, share that is right"),
    "dataset_chance": Rule("the share of the most frequent dataset"),
    "skipped_steps": Rule(
        "steps that were not finite and left out",
        most=0.0,
        advice="the log names their slices; lower the learning rate, or set clip_norm",
    ),
    "data_wait": Rule(
        "share of the time that the device waited for slices", most=0.2, advice="put the store on a faster disk"
    ),
    "monitor_share": Rule("time spent on these monitors, as a share of the stage"),
    "similarity": Rule(
        "largest CKA of two experts: 1 means that they learned the same", most=0.995, advice="drop one with --levels"
    ),
    "least_change": Rule(
        "1 - CKA with the plain base of the expert nearest to it", least=1e-4, advice=f"it has not moved: {_LONGER}"
    ),
}


def judge(values: Mapping[str, float]) -> tuple[Measure, ...]:
    """Numbers with their rules applied, in the order of ``values``."""
    return tuple(_measure(name, value) for name, value in values.items())


def verdict(measures: tuple[Measure, ...]) -> Verdict:
    """``warn`` if any measure is."""
    return "warn" if any(measure.passed is False for measure in measures) else "pass"


def _measure(name: str, value: float) -> Measure:
    rule = RULES[name]
    wanted, passed = "", None
    if rule.least is not None:
        wanted, passed = f"at least {rule.least:g}", value >= rule.least
    elif rule.most is not None:
        wanted, passed = f"at most {rule.most:g}", value <= rule.most
    return Measure(name, value, wanted, passed, rule.meaning, rule.advice if passed is False else "")
