"""The decoders by name. A new one is a file beside this one and a line here."""

from functools import partial

from samora_pipeline.models.decoders.autosam import AutoSamDecoder
from samora_pipeline.models.decoders.decoder import DecoderFactory
from samora_pipeline.models.decoders.hsam import HSamDecoder
from samora_pipeline.models.decoders.sam import Sam2Decoder, SamedDecoder
from samora_pipeline.registry import Registry

DECODERS: Registry[DecoderFactory] = Registry("decoder")

DECODERS.register("samed")(SamedDecoder)
DECODERS.register("sam2")(Sam2Decoder)
DECODERS.register("hsam")(HSamDecoder)
DECODERS.register("hsam_released")(partial(HSamDecoder, released=True))
DECODERS.register("autosam")(AutoSamDecoder)
