"""The name of a run, made from what was typed: ``tiny-epochs20``; ``default`` where nothing was."""

import re
from collections.abc import Iterator
from pathlib import Path

from samora_pipeline.errors import UsageError
from samora_pipeline.files import digest_json
from trainers.runs.request import Request

DEFAULT_NAME = "default"
FAST_NAME = "fast-dev-run"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_UNFIT = re.compile(r"[^A-Za-z0-9.]+")
_LONGEST, _DIGEST_LENGTH = 60, 6
_OWN_PREFIX = "samora_"
# Settings of these parts are named without it; those of other stages with it.
_USUAL_PARTS = ("finetune", "model")


def run_name(request: Request) -> str:
    """The name of a run; the same words give the same name on every machine.

    Args:
        request: what was typed, presets resolved.

    Raises:
        UsageError: ``E-ARG-15`` a given name that cannot be one.
    """
    if request.fast:
        return FAST_NAME
    if request.name is None:
        return _made_of(list(_typed(request))) or DEFAULT_NAME
    if not _NAME.match(request.name) or "__" in request.name or request.name == FAST_NAME:
        raise UsageError("E-ARG-15", request=request, found=request.name)
    return request.name


def fold_folder(request: Request, results: Path, fold: str) -> Path:
    """Where a fold of a run lies; ``results`` is the folder of the dataset's results.

    Trial runs lie one level deeper, so that nothing ever predicts with them.
    """
    runs = results / FAST_NAME if request.fast else results
    return runs / f"{request.trainer.rpartition(':')[2]}__{request.split}__{run_name(request)}" / f"fold_{fold}"


def _made_of(words: list[str]) -> str:
    """The words as one name; a digest tells those apart that had to be changed or cut."""
    fitting = [_UNFIT.sub("-", word).strip("-.") for word in words]
    name = "-".join(filter(None, fitting))
    if len(name) <= _LONGEST and all(_UNFIT.sub("-", word) == word.replace("_", "-") for word in words):
        return name
    return f"{name[:_LONGEST].rstrip('-.')}-{digest_json(words)[:_DIGEST_LENGTH]}"


def _typed(request: Request) -> Iterator[str]:
    yield (request.backbone or "").removeprefix(_OWN_PREFIX)
    yield Path(request.backbone_weights or "").stem
    yield request.recipe or ""
    yield "-".join(request.levels or ())
    for title, cases in (("pool", request.unlabeled), ("leaky", request.allow_leak)):
        yield "-".join((title, *sorted(cases))) if cases else ""
    yield "-".join(("taught", *sorted(request.taught_by))) if request.taught_by else ""
    if request.consistency is not None:
        yield "consistency" if request.consistency else "no-consistency"
    yield "" if request.start_from is None else f"from-{request.start_from.strip('/').rpartition('/')[2]}"
    yield "transductive" if request.transductive else ""
    yield "excluded-leaks" if request.exclude_leaks else ""
    yield "" if request.minutes is None else f"{request.minutes:g}min"
    yield from map(_setting, request.assignments)
    yield f"seed{request.seed}" if request.seed else ""


def _setting(assignment: str) -> str:
    name, _, value = assignment.partition("=")
    part, _, rest = name.partition(".")
    short = (rest if part in _USUAL_PARTS and rest else name).removesuffix(".name")
    return f"{short}{value}" if value[:1].isdigit() else f"{short}-{value}"
