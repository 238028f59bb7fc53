"""The public checkpoint layouts of SAM and SAM 2, read into a network of any input size and written from one.

SAM: a flat state dict with the prefixes image_encoder., prompt_encoder. and mask_decoder. Position tables are resized
to the network's token grid as SAMed does it. SAM 2, EfficientSAM, MobileSAM and any other family: see
``Backbone.file_name`` and ``Backbone.from_file``.

Shapes: G token grid of the file, g of the network, D width, c width of a head.
"""

from collections.abc import Collection, Mapping, Set
from dataclasses import astuple, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.errors import DataError
from samora_pipeline.models.assembly import public_names
from samora_pipeline.models.backbones.sam2 import SAM2_HIERA_B_PLUS
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.expert_block import expert_blocks
from samora_pipeline.models.samora import SegmentationNetwork

POSITIONS = "image_encoder.pos_embed"
SAM2_POSITIONS = SAM2_HIERA_B_PLUS.file_name(POSITIONS)
TINY_VIT = "image_encoder.layers.1.blocks.0.attn.attention_biases"
MASK_TOKENS = "mask_tokens.weight"
SIZED_BY_OUTPUTS = ("mask_tokens.", "output_hypernetworks_mlps.", "iou_prediction_head.")
"""below the mask decoder"""
TIE_BREAK = 0.1
"""of the spread of the file's mask tokens: what tells outputs apart that start from the same token"""
_FIX = "choose the file that belongs to it, or the --backbone that belongs to the file; samora_weights list  names them"


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor of a file; together these lists name all of them, each once.

    ``dropped`` tensors have no place in the network: they belong to another number of outputs, to a decoder, to
    prompts or to a classifier that it does not have. ``video`` tensors belong to the parts of SAM 2 that follow objects
    through a video. ``kept`` are names of the network, whose tensors keep their random start.
    """

    loaded: tuple[str, ...]
    resized: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    video: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = ("loaded", "resized", "left at their random start", "of no use", "for videos alone")
        return ", ".join(f"{len(names)} {what}" for what, names in zip(said, astuple(self), strict=True) if names)


def load_base(network: SegmentationNetwork, state: Mapping[str, Tensor], *, copy_outputs: bool = False) -> LoadReport:
    """Read a public state of SAM or SAM 2 into the network's base, prompt encoder and mask decoder.

    Nothing is written unless everything fits. In SAM the position table (1,G,G,D) and, in blocks with global
    attention, the relative position tables (2G-1,c) are interpolated bilinearly to the network's grid (SAMed). Mask
    tokens, hyper-networks and the quality head are dropped when their number of outputs is not the network's (SAMed),
    and so are SAM 2's parts for videos; a backbone's ``other_parts`` may be on one side alone. With ``copy_outputs``
    each output of the network then starts from one of the file's mask tokens and its hyper-network, in turn, instead
    of from random numbers.

    Raises:
        DataError: ``E-WEIGHT-06`` when a tensor is missing, left over or of another shape.
    """
    own = network.state_dict()
    targets = {public: own[name] for public, name in _file_names(network).items()}
    backbone = network.backbone
    video = {name for name in state if name.startswith(backbone.unused_parts)}
    dropped = _other_outputs(targets, state, backbone.file_name("mask_decoder."))
    kept, others = (
        {name for name in one.keys() - other.keys() if name.startswith(backbone.other_parts)} - dropped
        for one, other in ((targets, state), (state, targets))
    )
    part = f"backbone: the file looks like {_variant(state)}"
    check_names(targets.keys() - dropped - kept, state.keys() - dropped - others - video, part)
    resizable = {POSITIONS} | _global_tables(network) if backbone.resized_tables else set()
    fitted: dict[str, Tensor] = {}
    resized = []
    for public in sorted(state.keys() - dropped - others - video):
        target = targets[public]
        fitted[public] = state[public]
        if state[public].shape != target.shape:
            if public not in resizable or state[public].shape[-1] != target.shape[-1]:
                raise misfit(part, f"{public} {tuple(state[public].shape)}", f"{public} {tuple(target.shape)}")
            fitted[public] = _resize(state[public], target)
            resized.append(public)
    if copy_outputs:
        fitted |= _copied_outputs(targets, state, dropped)
    with torch.no_grad():
        for public, tensor in fitted.items():
            targets[public].copy_(backbone.from_file(public, tensor))
    loaded = tuple(public for public in fitted if public not in {*resized, *dropped})
    left = tuple(sorted((dropped | others) & state.keys()))
    return LoadReport(loaded, tuple(resized), tuple(sorted(kept)), dropped=left, video=tuple(sorted(video)))


def base_state(network: SegmentationNetwork) -> dict[str, Tensor]:
    """The inverse of ``load_base``: the base in the public layout, at the network's own grid and outputs."""
    own, to_file = network.state_dict(), network.backbone.to_file
    return {public: to_file(public, own[name]).detach().clone() for public, name in _file_names(network).items()}


def _file_names(network: SegmentationNetwork) -> dict[str, str]:
    """Names in the family's public files and the network's own names for the same tensors."""
    return {network.backbone.file_name(public): own for public, own in public_names(network).items()}


def _other_outputs(targets: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: str) -> set[str]:
    """Names on either side that depend on the number of outputs, if the two numbers differ.

    ``prefix`` begins the names of a mask decoder; a decoder without any of these names drops all of the file's.
    """
    if not any(name.startswith(prefix) for name in targets):
        return {name for name in state if name.startswith(prefix)}
    tokens, own = state.get(prefix + MASK_TOKENS), targets.get(prefix + MASK_TOKENS)
    if tokens is None or own is None or tokens.shape[:1] == own.shape[:1]:
        return set()
    sized = tuple(prefix + part for part in SIZED_BY_OUTPUTS)
    return {name for name in (*targets, *state) if name.startswith(sized)}


def _copied_outputs(targets: Mapping[str, Tensor], state: Mapping[str, Tensor], dropped: set[str]) -> dict[str, Tensor]:
    """Mask tokens and hyper-networks of the network's outputs as copies of the file's, in turn."""
    copies = {}
    for public in sorted(dropped & targets.keys()):
        before, part, after = public.partition("output_hypernetworks_mlps.")
        if public.endswith(MASK_TOKENS):
            given, own = state[public].float(), targets[public]
            turns = torch.arange(len(own)) % len(given)
            copies[public] = given[turns] + TIE_BREAK * given.std() * own
        elif part:
            output, _, name = after.partition(".")
            outputs = len(
                {key.removeprefix(before + part).split(".")[0] for key in state if key.startswith(before + part)}
            )
            copies[public] = state[f"{before}{part}{int(output) % outputs}.{name}"]
    return copies


def _global_tables(network: SegmentationNetwork) -> set[str]:
    tables = set()
    for path, block in expert_blocks(network.image_encoder).items():
        if block.steps.window(block.block) == 0:
            tables |= {f"image_encoder.{path}.attn.rel_pos_{axis}" for axis in "hw"}
    return tables


def _resize(table: Tensor, target: Tensor) -> Tensor:
    """Interpolate (1,G,G,D) to (1,g,g,D), or (2G-1,c) to (2g-1,c)."""
    if table.ndim == 4:
        grid = functional.interpolate(table.float().permute(0, 3, 1, 2), target.shape[1:3], mode="bilinear")
        return grid.permute(0, 2, 3, 1)
    return functional.interpolate(table.float()[None, None], tuple(target.shape), mode="bilinear")[0, 0]


def check_names(wanted: Set[str], given: Collection[str], part: str) -> None:
    """Raise ``E-WEIGHT-06`` unless the names are the same; ``part`` is what the weights are for."""
    for names, what in ((wanted - set(given), "are missing"), (set(given) - wanted, "too many")):
        if names:
            raise misfit(part, f"{len(names)} tensors {what}, first {min(names)}", f"{len(wanted)} tensors")


def misfit(part: str, found: str, expected: str) -> DataError:
    """The error of weights that belong to another network."""
    return DataError("E-WEIGHT-06", what=f"weights do not fit the {part}", found=found, expected=expected, fix=_FIX)


def _variant(state: Mapping[str, Tensor]) -> str:
    """The backbone a state belongs to, told by its width and depth."""
    if TINY_VIT in state:
        return "mobile_sam"
    if POSITIONS in state:
        width, prefix = state[POSITIONS].shape[-1], "image_encoder.blocks."
    elif SAM2_POSITIONS in state:
        width, prefix = state[SAM2_POSITIONS].shape[1], "image_encoder.trunk.blocks."
    else:
        return "no SAM checkpoint"
    depth = len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})
    for name in BACKBONES.names():
        backbone = BACKBONES.get(name)
        if (backbone.embed_dim, backbone.depth) == (width, depth):
            return name
    return f"an unknown SAM variant with width {width} and {depth} blocks"
