"""Kinds of noise by name; names and options are checked without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from samora_pipeline.contracts.options import read_options
from samora_pipeline.contracts.part_options import NOISE_OPTIONS
from samora_pipeline.contracts.random_steps import NoiseSpec
from samora_pipeline.registry import Registry

if TYPE_CHECKING:
    from samora_pipeline.slices.noise import Noise

NOISES: Registry[type[Noise]] = Registry("noise")
NOISES.register_place("mixture", "samora_pipeline.slices.noise:Mixture")


def noise_options(spec: NoiseSpec) -> Any:
    """The options of a spec's noise, with its defaults.

    Raises:
        UsageError: ``E-NAME-01`` no such noise, ``E-SET-01`` and ``E-SET-03`` options that it does not take.
    """
    known = NOISE_OPTIONS.get(spec.name) or NOISES.get(spec.name).Options
    return read_options(known, spec.options, f'noise "{spec.name}"')
