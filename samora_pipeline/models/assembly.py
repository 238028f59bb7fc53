"""From a spec to a network, and between a network and the states that are saved.

Three kinds of state: an expert (its LoRA on every block), everything that is trained (all but the frozen base
encoder), and the base under the names of the public checkpoint files.
"""

from collections.abc import Mapping
from typing import overload

import torch
from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import LEVELS, Level, ModelSpec, ModuleSpec, NetworkSpec
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.models.backbones.backbone import Backbone
from samora_pipeline.models.catalog import BACKBONES, DECODERS, FUSIONS, build_fusion, fusion_options
from samora_pipeline.models.expert_block import ExpertBlock, block_widths, expert_blocks
from samora_pipeline.models.module import ModuleNetwork, build_module, module_arguments
from samora_pipeline.models.sam_adapter import BlockAdapters
from samora_pipeline.models.samora import Network, SegmentationNetwork


@overload
def build_network(spec: ModelSpec) -> SegmentationNetwork: ...


@overload
def build_network(spec: ModuleSpec) -> ModuleNetwork: ...


def build_network(spec: NetworkSpec) -> Network:
    """Build the network of a spec with random weights; the random state of torch decides them.

    With one level or none ``spec.fusion`` is not used.

    Raises:
        UsageError: ``E-NAME-01`` an unknown part, ``E-MODEL-01`` an input size that does not fit the backbone,
            ``E-MODEL-02`` several levels without a fusion, ``E-MODEL-08`` adapters on another family than SAM's,
            ``E-SET-01`` and ``E-SET-03`` options that a part does not have.
    """
    if isinstance(spec, ModuleSpec):
        return build_module(spec)
    backbone = BACKBONES.get(spec.backbone)
    encoder = backbone.build_encoder(spec.input_size)
    block_adapters = BlockAdapters(encoder) if spec.block_adapters else None
    encoder.blocks = nn.ModuleList(_with_experts(block, backbone, spec) for block in encoder.blocks)
    decoder = DECODERS.get(spec.decoder)(backbone, num_outputs=spec.num_outputs, input_size=spec.input_size)
    return SegmentationNetwork(spec, backbone, encoder, decoder, block_adapters)


def check_spec(spec: NetworkSpec) -> None:
    """Refuse parts and an input size that do not go together, without building the encoder.

    Raises:
        UsageError: ``E-NAME-01`` an unknown part, ``E-MODEL-01`` an input size that does not fit the backbone,
            ``E-MODEL-06`` a decoder for another family, ``E-MODEL-07`` one that is not made for the input size,
            ``E-SET-01`` and ``E-SET-03`` options that a part does not have.
    """
    if isinstance(spec, ModuleSpec):
        module_arguments(spec)
        return
    backbone = BACKBONES.get(spec.backbone)
    backbone.grid(spec.input_size)
    if spec.fusion is not None:
        fusion_options(spec.fusion.name, spec.fusion.options)
    with torch.device("meta"):
        DECODERS.get(spec.decoder)(backbone, num_outputs=spec.num_outputs, input_size=spec.input_size)


def _with_experts(block: nn.Module, backbone: Backbone, spec: ModelSpec) -> ExpertBlock:
    levels = [level for level in LEVELS if level in spec.levels]
    if len(levels) < 2:
        return ExpertBlock(block, backbone.steps, levels, spec.lora_rank)
    if spec.fusion is None:
        raise UsageError("E-MODEL-02", names=", ".join(FUSIONS.names()), level=levels[0], found=", ".join(levels))
    _, width = block_widths(block)
    fusion = build_fusion(spec.fusion, num_experts=len(levels), dim=width, window=backbone.steps.window(block))
    return ExpertBlock(block, backbone.steps, levels, spec.lora_rank, fusion=fusion, scope=spec.fusion.scope)


def expert_state(network: SegmentationNetwork, level: Level) -> dict[str, Tensor]:
    """The LoRA of one level on every block, keyed by block path below the image encoder (``blocks.0.q_a``)."""
    return {
        f"{path}.{name}": tensor.detach().clone()
        for path, block in expert_blocks(network.image_encoder).items()
        for name, tensor in block.experts[level.value].state_dict().items()
    }


def load_expert(network: SegmentationNetwork, level: Level, state: Mapping[str, Tensor]) -> None:
    """Read a state of ``expert_state`` into the expert of that level, strictly; the level it came from may differ.

    Raises:
        DataError: ``E-EXP-20`` when rank, width or depth differ.
    """
    own = expert_state(network, level)
    if _shapes(own) != _shapes(state):
        found, expected = _describe_expert(state), _describe_expert(own)
        fix = "train the expert again with this backbone and rank, or leave it out with --levels"
        raise DataError(
            "E-EXP-20", f"the {level} expert does not fit the network", found=found, expected=expected, fix=fix
        )
    blocks = expert_blocks(network.image_encoder)
    for path, block in blocks.items():
        expert = block.experts[level.value]
        expert.load_state_dict({name: state[f"{path}.{name}"] for name in expert.state_dict()})


def trained_state(network: Network) -> dict[str, Tensor]:
    """Everything but the frozen base encoder: experts, fusion, decoder, prompt encoder (with buffers) and adapter.

    Of a ``ModuleNetwork``, and of a backbone that is trained whole: everything, statistics of norms included.
    """
    base: set[str] = set()
    if isinstance(network, SegmentationNetwork) and not network.backbone.trained_whole:
        base = set(_base_names(network).values())
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items() if name not in base}


def load_trained(network: Network, state: Mapping[str, Tensor]) -> None:
    """Read a state of ``trained_state``, strictly.

    Raises:
        DataError: ``E-MODEL-03`` when names or shapes are not those of the network.
    """
    require_shapes(network, state)
    network.load_state_dict(dict(state), strict=False)


def require_shapes(network: Network, state: Mapping[str, Tensor]) -> None:
    """Refuse a state whose names or shapes are not those of the network, which may be on the device ``meta``.

    Raises:
        DataError: ``E-MODEL-03``.
    """
    own = trained_state(network)
    wrong = sorted(set(_shapes(own).items()) ^ set(_shapes(state).items()))
    if wrong:
        name, count = wrong[0][0], len({name for name, _ in wrong})
        found = f"{name} {_shapes(state).get(name, 'missing')} ({count} tensors differ)"
        raise DataError("E-MODEL-03", found=found, expected=f"{name} {_shapes(own).get(name, 'absent')}")


def public_names(network: SegmentationNetwork) -> dict[str, str]:
    """Names in the public checkpoint layout and the network's own names for the same tensors.

    Only the base has public names: image encoder, prompt encoder and what the decoder names, without experts and
    fusion.
    """
    names = _base_names(network)
    names |= {f"prompt_encoder.{name}": f"prompt_encoder.{name}" for name in network.prompt_encoder.state_dict()}
    return names | {public: f"decoder.{own}" for public, own in network.decoder.public_names().items()}


def _base_names(network: SegmentationNetwork) -> dict[str, str]:
    """Public to own names of the base encoder's tensors; an expert block adds one step to the path of what it wraps."""
    added: set[str] = set()
    wrapped: dict[str, str] = {}
    for path, block in expert_blocks(network.image_encoder).items():
        added |= {f"{path}.{name}" for name in block.state_dict()}
        wrapped |= {f"{path}.{name}": f"{path}.block.{name}" for name in block.block.state_dict()}
    bare = {name: name for name in network.image_encoder.state_dict() if name not in added}
    return {f"image_encoder.{public}": f"image_encoder.{own}" for public, own in (bare | wrapped).items()}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _describe_expert(state: Mapping[str, Tensor]) -> str:
    """Rank, width and depth as far as the names tell them."""
    paths = {name.rpartition(".")[0] for name in state}
    first = next((tensor for name, tensor in state.items() if name.endswith(".q_a") and tensor.ndim == 2), None)
    if first is None:
        return f"{len(state)} tensors that are no expert"
    return f"rank {first.shape[0]}, width {first.shape[1]}, depth {len(paths)}"
