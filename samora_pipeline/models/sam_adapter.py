"""SAM-Adapter: what it adds to the tokens in front of every block of a frozen SAM encoder.

Written from the behaviour of the public code (github.com/tianrun-chen/SAM-Adapter-PyTorch, image_encoder.py).

Shapes: B batch, N input size in pixels, g token grid, D encoder width, d = D / 32.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from samora_pipeline.errors import UsageError
from samora_pipeline.models.backbones.backbone import Encoder
from samora_pipeline.models.backbones.sam import SamEncoder

SCALE_FACTOR = 32
LOW_SHARE = 0.25
"""share of the spectrum, a square around its centre, that counts as low frequencies"""


class BlockAdapters(nn.Module):
    """A two-layer network per block on patch embeddings and high frequencies; its second layer is shared by all.

    Block i gets ``shared(gelu(layer_i(details + tokens)))`` added to its tokens: ``details`` are patches of the image
    without its low frequencies, ``tokens`` the patch embedding, both at width d. Starts as in its code, near zero
    but not at it. 63,312 parameters on SAM ViT-B.

    Raises:
        UsageError: ``E-MODEL-08`` an encoder of another family than SAM's.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        if not isinstance(encoder, SamEncoder):
            raise UsageError("E-MODEL-08", found=type(encoder).__name__)
        patch = cast(nn.Conv2d, encoder.patch_embed.get_submodule("proj"))
        width = encoder.embed_dim // SCALE_FACTOR
        side = patch.kernel_size[0]
        self.details = nn.Conv2d(3, width, kernel_size=side, stride=side)
        self.tokens = nn.Linear(encoder.embed_dim, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(encoder.depth))
        self.shared = nn.Linear(width, encoder.embed_dim)
        self._start()

    def _start(self) -> None:
        for linear in (self.tokens, *self.layers, self.shared):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        fan_out = self.details.out_channels * math.prod(self.details.kernel_size)
        nn.init.normal_(self.details.weight, std=math.sqrt(2 / fan_out))
        nn.init.zeros_(cast(Tensor, self.details.bias))

    def forward(self, images: Tensor, patches: Tensor) -> tuple[Tensor, ...]:
        """Images (B,3,N,N) and their patch embedding without positions (B,g,g,D) to one (B,g,g,D) for each block."""
        seen = self.details(high_frequencies(images)).permute(0, 2, 3, 1) + self.tokens(patches)
        return tuple(self.shared(nn.functional.gelu(layer(seen))) for layer in self.layers)


def high_frequencies(images: Tensor) -> Tensor:
    """The absolute value of images (B,C,N,N) without a quarter of their spectrum, the square of low frequencies."""
    height, width = images.shape[-2:]
    half = int(math.sqrt(height * width * LOW_SHARE) // 2)
    # Half precision has no Fourier transform on most devices.
    spectrum = torch.fft.fftshift(torch.fft.fft2(images.float()), dim=(-2, -1))
    kept = torch.ones(height, width, device=images.device)
    kept[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half] = 0
    left = torch.fft.ifft2(torch.fft.ifftshift(spectrum * kept, dim=(-2, -1))).real
    return left.abs().to(images.dtype)
