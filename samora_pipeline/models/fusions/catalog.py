"""The fusions by name. A new one is a file beside this one and a line here."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from samora_pipeline.contracts.json_io import parse
from samora_pipeline.contracts.model_spec import FusionSpec
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.models.fusions.fusion import Fusion, Merge
from samora_pipeline.models.fusions.hcat import HCAT
from samora_pipeline.models.fusions.hl_attn import HLAttention, SelfHLAttention
from samora_pipeline.models.fusions.merges import LAC, LoRAHub
from samora_pipeline.models.fusions.mole import MoLE
from samora_pipeline.registry import Registry, nearest

FUSIONS: Registry[type[Fusion] | type[Merge]] = Registry("fusion")

FUSIONS.register("hl_attn")(HLAttention)
FUSIONS.register("hl_attn_self")(SelfHLAttention)
FUSIONS.register("lac")(LAC)
FUSIONS.register("mole")(MoLE)
FUSIONS.register("lorahub")(LoRAHub)
FUSIONS.register("hcat")(HCAT)


def fusion_options(name: str, options: Mapping[str, Any]) -> Any:
    """Return the options of the fusion called ``name`` as its own dataclass, with defaults for those not given.

    Args:
        name: of the fusion, see ``FusionSpec``.
        options: in the form of JSON; ``contracts.json_io.to_plain`` of the result gives all of them.

    Raises:
        UsageError: ``E-NAME-01`` an unknown fusion, ``E-SET-01`` an option that it does not have, with the nearest
            one, ``E-SET-03`` a value of another type.
    """
    kind = FUSIONS.get(name).Options
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            raise UsageError(
                "E-SET-01",
                hints=nearest(option, known),
                hints2=", ".join(known) or "none",
                what=f'the fusion {name} has no option "{option}"',
                found=option,
            )
    try:
        return parse(kind, dict(options), name)
    except DataError as error:
        raise UsageError(
            "E-SET-03",
            what=f"an option of the fusion {name} has another type",
            found=str(error),
            expected=error.expected,
        ) from error


def build_fusion(spec: FusionSpec, *, num_experts: int, dim: int, window: int) -> Fusion | Merge:
    """The fusion of one block; arguments as in ``Joining``, errors as in ``fusion_options``."""
    options = fusion_options(spec.name, spec.options)
    return FUSIONS.get(spec.name)(options, num_experts=num_experts, dim=dim, window=window)
