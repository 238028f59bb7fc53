"""The fusions by name. A new one is a file beside this one and a line here."""

from __future__ import annotations

from samora_pipeline.models.fusions.fusion import FusionFactory
from samora_pipeline.models.fusions.hcat import HCAT
from samora_pipeline.models.fusions.hl_attn import HLAttention
from samora_pipeline.models.fusions.hl_attn_self import SelfHLAttention
from samora_pipeline.models.fusions.lac import LAC
from samora_pipeline.models.fusions.lorahub import LoRAHub
from samora_pipeline.models.fusions.mole import MoLE
from samora_pipeline.registry import Registry

FUSIONS: Registry[FusionFactory] = Registry("fusion")

FUSIONS.register("hl_attn")(HLAttention)
FUSIONS.register("hl_attn_self")(SelfHLAttention)
FUSIONS.register("lac")(LAC)
FUSIONS.register("mole")(MoLE)
FUSIONS.register("lorahub")(LoRAHub)
FUSIONS.register("hcat")(HCAT)
