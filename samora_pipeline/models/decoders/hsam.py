"""H-SAM's two-stage hierarchical decoder (CVPR 2024): a first draft as SAMed's, then a closer look under its masks.

Shapes: B batch, P prompt width, g side of the embedding grid, L = g g, K output maps, N = 16 g input size.
"""

from functools import partial
from typing import NamedTuple

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.batch_parts import normal_like
from samora_pipeline.distributed import gather_statistics
from samora_pipeline.errors import UsageError
from samora_pipeline.models.backbones.backbone import Backbone, Features
from samora_pipeline.models.decoders.hsam_attention import MaskedTwoWayTransformer, MaskGuidedAttention, cross_first
from samora_pipeline.models.decoders.sam import OnMaskDecoder

EMBEDDING_NOISE = 0.2
"""on what stage 2 sees in training, as a share of the embedding's range (H-SAM's code)"""
RELEASED_HEADS = {14: 7, 32: 8}
"""token grids that the public code is written for (224 and 512 px), and the heads of its mask attention there"""

HYPER_DEPTH = 5


class FirstStage(NamedTuple):
    """What stage 2 takes over: logits (B,K,4g,4g), upscaled features (B,P/8,4g,4g), mask features (B,K,g,g)."""

    logits: Tensor
    upscaled: Tensor
    mask_features: Tensor


class HierarchicalPixelDecoder(nn.Module):
    """Four doublings with a skip from the first stage in the middle, then one product per output map.

    Two doublings as in SAM (P to P/8 channels), the first stage's features at the same size beside them, two more
    (P/4 to P/16). What a map is looks from its token through five layers to P/16 weights. 2,489,856 parameters with
    P = 256 and 9 outputs.
    """

    def __init__(self, dim: int, num_outputs: int) -> None:
        super().__init__()
        self.upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.joined = nn.Sequential(
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            LayerNorm2d(dim // 8),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 8, dim // 16, kernel_size=2, stride=2),
            LayerNorm2d(dim // 16),
            nn.GELU(),
        )
        self.hyper_mlps = nn.ModuleList(MLP(dim, dim, dim // 16, HYPER_DEPTH) for _ in range(num_outputs))

    def forward(self, image: Tensor, earlier: Tensor, tokens: Tensor) -> Tensor:
        """Image (B,P,g,g), features of stage 1 (B,P/8,4g,4g) and mask tokens (B,K,P) to logits (B,K,16g,16g)."""
        features = self.joined(torch.cat((self.upscaling(image), earlier), dim=1))
        weights = torch.stack([mlp(tokens[:, number]) for number, mlp in enumerate(self.hyper_mlps)], dim=1)
        return (weights @ features.flatten(2)).view(*weights.shape[:2], *features.shape[-2:])


class HSamDecoder(OnMaskDecoder):
    """Logits of both stages, (B,K,4g,4g) and (B,K,N,N); ``forward`` gives the second.

    Stage 1 is SAMed's decoder. Stage 2 starts from the same embedding, weighed by a mask-guided self-attention, runs a
    two-way transformer whose cross-attentions are multiplied by the first stage's softmax (of ones where there is a
    single map), and upscales to input size with the first stage's features as a skip. It works at every input size.
    Only stage 1 has public weights. In training stage 2 sees noise, of a strength that follows the range of the whole
    batch, whatever its parts and ranks.

    ``released`` reproduces H-SAM's public code instead: stage 1 in stage 2's order of attentions, a mask attention that
    is constant and has no gradient, sizes 224 and 512 only, and the parameters that nothing uses there (with them the
    counts are its own: 7,567,727 for stage 2 at 224 px and 19,051,259 at 512 px, for 9 outputs, and seven
    point embeddings more).

    Raises:
        UsageError: ``E-MODEL-06`` a backbone without SAM's mask decoder, ``E-MODEL-07`` ``released`` at another size.
    """

    def __init__(self, backbone: Backbone, *, num_outputs: int, input_size: int, released: bool = False) -> None:
        super().__init__(backbone, num_outputs=num_outputs, input_size=input_size)
        grid, dim = backbone.grid(input_size), backbone.prompt_dim
        if released and grid not in RELEASED_HEADS:
            raise UsageError("E-MODEL-07", found=f"{input_size} px")
        self.released = released
        sizes = self.mask_decoder.transformer
        self.mask_tokens = nn.Embedding(num_outputs, dim)
        self.mask_attention = (
            MaskGuidedAttention(num_outputs, side=grid, heads=RELEASED_HEADS[grid], constant=True)
            if released
            else MaskGuidedAttention(num_outputs)
        )
        self.transformer = MaskedTwoWayTransformer(dim, depth=sizes.depth, heads=sizes.num_heads, mlp_dim=sizes.mlp_dim)
        self.pixel_decoder = HierarchicalPixelDecoder(dim, num_outputs)
        self.unused = _unused(dim, num_outputs, sizes.depth) if released else None

    def forward(self, features: Features, positions: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """Decode to the logits of the second stage, (B,K,N,N)."""
        return self.stages(features, positions, sparse, dense)[-1]

    def stages(
        self, features: Features, positions: Tensor, sparse: Tensor, dense: Tensor, target: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Decode to the logits of both stages; ``target`` tells the mask attention which classes are rare."""
        embedding = features.embedding
        first = self._first(embedding + dense, positions)
        second = self._second(_noisy(embedding) if self.training else embedding, positions, dense, first, target)
        return first.logits, second

    def _first(self, image: Tensor, positions: Tensor) -> FirstStage:
        """SAM's mask decoder on (B,P,g,g), open where stage 2 looks into it."""
        decoder = self.mask_decoder
        tokens = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))[None]
        if self.released:
            answers, flat = cross_first(decoder.transformer, image, positions, tokens, mask=None, dropout=0.0)
        else:
            answers, flat = decoder.transformer(image, positions, tokens)
        masks = answers[:, 1:]
        upscaled = decoder.output_upscaling(flat.transpose(1, 2).view_as(image))
        weights = [mlp(masks[:, number]) for number, mlp in enumerate(decoder.output_hypernetworks_mlps)]
        logits = (torch.stack(weights, dim=1) @ upscaled.flatten(2)).view(*masks.shape[:2], *upscaled.shape[-2:])
        return FirstStage(logits, upscaled, (masks @ flat.transpose(1, 2)).view(*masks.shape[:2], *image.shape[-2:]))

    def _second(
        self, embedding: Tensor, positions: Tensor, dense: Tensor, first: FirstStage, target: Tensor | None
    ) -> Tensor:
        image = embedding + dense
        image = image + image * self.mask_attention(first.mask_features, target)
        draft = functional.interpolate(first.logits, image.shape[-2:], mode="bilinear", align_corners=False)
        mask = draft.softmax(dim=1).flatten(2)
        tokens, flat = self.transformer(image, positions, self.mask_tokens.weight[None], mask)
        return self.pixel_decoder(flat.transpose(1, 2).view_as(image), first.upscaled, tokens)


RELEASED_HSAM_DECODER = partial(HSamDecoder, released=True)


def _noisy(embedding: Tensor) -> Tensor:
    fixed = embedding.detach()
    lowest, highest = gather_statistics(torch.stack((fixed.min(), fixed.max()))).unbind(1)
    return embedding + normal_like(fixed) * EMBEDDING_NOISE * (highest.max() - lowest.min())


def _unused(dim: int, num_outputs: int, depth: int) -> nn.ModuleDict:
    """What the public code owns and never uses: a quality head, norms in every masked attention, point embeddings."""
    norms = [nn.LayerNorm(size) for _ in range(2 * depth) for size in (196, 9, 1024)]
    return nn.ModuleDict(
        {"quality": MLP(dim, 256, num_outputs, 3), "norms": nn.ModuleList(norms), "points": nn.Embedding(7, dim)}
    )
