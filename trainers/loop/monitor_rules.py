"""What each monitor of stage 1 means, from where on it is a warning, and what to do then. The thresholds are ours."""

from collections.abc import Mapping
from dataclasses import dataclass

from samora_pipeline.contracts.pretraining_card import Measure, Verdict

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


@dataclass(frozen=True)
class Rule:
    """``least`` or ``most`` is what is still no warning, ``advice`` what to do about one."""

    advice: str
    least: float | None = None
    most: float | None = None


RULES: dict[str, Rule] = {
    "gap": Rule(f"the expert hardly helps its own task, the head does it alone: {_LONGER}", least=0.01),
    "loss_ratio": Rule(_LONGER, most=1.0),
    "accuracy_over_chance": Rule(f"views do not pair: {_LONGER}", least=5.0),
    "loss_below_chance": Rule(f"nothing is learned yet: {_LONGER}; {_PLATEAU}", least=0.5),
    "embedding_spread": Rule(_COLLAPSE, least=0.1),
    "embedding_rank_share": Rule(f"few directions are used: {_COLLAPSE}", least=0.1),
    "explained": Rule(_LONGER, least=0.02),
    "teacher_similarity_gain": Rule(f"the student moves away from its teacher on the panel: {_LONGER}", least=0.0),
    "psnr_gain": Rule(f"the restored slices are worse than the noisy ones: {_LONGER}", least=0.0),
    "ssim_gain": Rule(_LONGER, least=0.0),
    "lora_smallest": Rule("a block's LoRA has stayed at zero: raise the learning rate", least=1e-4),
    "lora_largest": Rule("the expert overwrites the base: lower the learning rate", most=1.0),
    "position_error_over_chance": Rule(f"the features ignore where a slice lies in the body: {_LONGER}", most=1.25),
    "skipped_steps": Rule("the log names their slices; lower the learning rate, or set clip_norm", most=0.0),
    "data_wait": Rule("put the store on a faster disk", most=0.2),
    "similarity": Rule("drop one with --levels", most=0.995),
    "least_change": Rule(f"it has not moved: {_LONGER}", least=1e-4),
}


def judge(values: Mapping[str, float]) -> tuple[Measure, ...]:
    """Numbers with their rules applied, in the order of ``values``."""
    return tuple(_measure(name, value) for name, value in values.items())


def verdict(measures: tuple[Measure, ...]) -> Verdict:
    """``warn`` if any measure is."""
    return "warn" if any(measure.passed is False for measure in measures) else "pass"


def _measure(name: str, value: float) -> Measure:
    rule = RULES.get(name)
    if rule is None:
        return Measure(name, value, "", None, MEANINGS[name], "")
    if rule.least is not None:
        wanted, passed = f"at least {rule.least:g}", value >= rule.least
    else:
        wanted, passed = f"at most {rule.most:g}", rule.most is not None and value <= rule.most
    return Measure(name, value, wanted, passed, MEANINGS[name], "" if passed else rule.advice)
