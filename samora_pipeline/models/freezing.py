"""What of a network is trained: declared by part, accounted for (Table 3), and checked after the first step.

A parameter belongs to a part because of the module that owns it, never because of its name.
"""

from enum import StrEnum

import torch
from torch import Tensor, nn

from samora_pipeline.errors import SamoraError
from samora_pipeline.models.expert_block import expert_blocks
from samora_pipeline.models.fusions.fusion import Fusion
from samora_pipeline.models.samora import Network, SegmentationNetwork


class Part(StrEnum):
    """The parts of a network. Every parameter is in exactly one.

    DECODER_FROZEN is what a decoder declares as its own frozen part, BLOCK_ADAPTERS what SAM-Adapter adds, ADAPTER
    the one that brings the channels of a slice to three. A ``ModuleNetwork`` is a single part, NETWORK.

    Without prompts only one embedding of the prompt encoder is ever used, ``no_mask_embed`` (256 floats): that is
    PROMPT. The rest of it, PROMPT_UNUSED, gets no gradient; SAMed counts it among what it trains.
    """

    BASE = "base"
    EXPERTS = "experts"
    FUSION = "fusion"
    DECODER = "decoder"
    DECODER_FROZEN = "decoder_frozen"
    PROMPT = "prompt"
    PROMPT_UNUSED = "prompt_unused"
    ADAPTER = "adapter"
    BLOCK_ADAPTERS = "block_adapters"
    NETWORK = "network"


Snapshot = dict[str, int]


def parameters_by_part(network: Network) -> dict[Part, dict[str, nn.Parameter]]:
    """All parameters by part and by their name in the network; a part may be empty."""
    part_of: dict[int, Part] = {}
    for part, modules in _owners(network):
        for module in modules:
            for parameter in module.parameters():
                part_of.setdefault(id(parameter), part)
    parts: dict[Part, dict[str, nn.Parameter]] = {part: {} for part in Part}
    for name, parameter in network.named_parameters():
        parts[part_of[id(parameter)]][name] = parameter
    return parts


def _owners(network: Network) -> list[tuple[Part, list[nn.Module]]]:
    """The modules of each part; a parameter belongs to the first part that has it."""
    if not isinstance(network, SegmentationNetwork):
        return [(Part.NETWORK, [network])]
    blocks = list(expert_blocks(network.image_encoder).values())
    return [
        (Part.EXPERTS, [block.experts for block in blocks]),
        (Part.FUSION, [block.fusion for block in blocks if block.fusion is not None]),
        (Part.BASE, [network.image_encoder]),
        (Part.DECODER_FROZEN, list(network.decoder.frozen)),
        (Part.DECODER, [network.decoder]),
        (Part.PROMPT, [network.prompt_encoder.get_submodule("no_mask_embed")]),
        (Part.PROMPT_UNUSED, [network.prompt_encoder]),
        (Part.ADAPTER, [network.adapter] if network.adapter is not None else []),
        (Part.BLOCK_ADAPTERS, [network.block_adapters] if network.block_adapters is not None else []),
    ]


def freeze(network: Network, trainable: frozenset[Part]) -> None:
    """Let exactly the parameters of the ``trainable`` parts require a gradient."""
    for part, parameters in parameters_by_part(network).items():
        for parameter in parameters.values():
            parameter.requires_grad_(part in trainable)


def account(network: Network) -> dict[Part, tuple[int, int]]:
    """Numbers of trainable and of frozen parameters by part (Table 3)."""
    counts = {}
    for part, parameters in parameters_by_part(network).items():
        trainable = sum(p.numel() for p in parameters.values() if p.requires_grad)
        counts[part] = (trainable, sum(p.numel() for p in parameters.values()) - trainable)
    return counts


def snapshot(network: Network) -> Snapshot:
    """Take a checksum of every frozen parameter, to be compared by ``verify``."""
    return {name: _checksum(p) for name, p in network.named_parameters() if not p.requires_grad}


def verify(network: Network, before: Snapshot) -> None:
    """Check the first optimisation step, after it and before the gradients are cleared.

    Raises:
        SamoraError: ``E-MODEL-04`` when a parameter that was frozen has moved, ``E-MODEL-05`` when no parameter of a
            part that is declared trainable received a gradient.
    """
    parameters = dict(network.named_parameters())
    moved = [name for name, checksum in before.items() if _checksum(parameters[name]) != checksum]
    if moved:
        raise SamoraError("E-MODEL-04", found=", ".join(moved[:3]))
    for part, owned in parameters_by_part(network).items():
        learning = [parameter for parameter in owned.values() if parameter.requires_grad]
        idle = part is Part.PROMPT_UNUSED or (part is Part.FUSION and _nothing_to_weigh(network))
        if learning and not idle and not any(p.grad is not None and p.grad.any() for p in learning):
            raise SamoraError("E-MODEL-05", part=part, found=f"{len(learning)} parameters, all without a gradient")


def _nothing_to_weigh(network: Network) -> bool:
    """Whether fusions that only weigh experts meet experts without effect, as with recipe ``none``."""
    blocks = expert_blocks(network).values()
    return all(
        isinstance(block.fusion, Fusion)
        and block.fusion.only_weighs
        and not any(factor.any() for name, factor in block.experts.named_parameters() if name.endswith("_b"))
        for block in blocks
    )


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _checksum(tensor: Tensor) -> int:
    """The sum of the bit patterns: exact, so that the smallest step shows, and without a copy of the weights."""
    return int(tensor.detach().view(_BITS[tensor.element_size()]).sum(dtype=torch.int64))
