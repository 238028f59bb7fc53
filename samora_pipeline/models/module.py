"""Any module as a segmentation network: from images to logits, without base, experts and parts."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import ModuleSpec
from samora_pipeline.errors import UsageError
from samora_pipeline.models.samora import Network
from samora_pipeline.models.unet import UNet2d
from samora_pipeline.models.unet3d import UNet3d
from samora_pipeline.registry import Registry

NETWORKS: Registry[Callable[..., nn.Module]] = Registry("network")
NETWORKS.register("unet2d")(UNet2d)
NETWORKS.register("unet3d")(UNet3d)
NETWORKS.register_place("transunet", "samora_pipeline.models.transunet:TransUNet")
NETWORKS.register_place("unetr_2d", "samora_pipeline.models.monai_networks:unetr_2d")
NETWORKS.register_place("swin_unetr_2d", "samora_pipeline.models.monai_networks:swin_unetr_2d")


class ModuleNetwork(Network):
    """A module from images (B,C,N,N) in [0,1] to logits (B,K,h,w). All of it is trained, its buffers are saved too.

    One of whole volumes takes (B,C,D,H,W) and gives (B,K,D,H,W).
    """

    def __init__(self, module: nn.Module, spec: ModuleSpec) -> None:
        super().__init__(spec)
        self.module = module
        self.num_outputs = spec.num_outputs
        self.volume = spec.volume

    @property
    def output_bias(self) -> Tensor | None:
        """That of the module, where it has a property of this name."""
        return getattr(self.module, "output_bias", None)

    def forward(self, images: Tensor) -> Tensor:
        """Segment images (B,C,N,N), floats in [0,1], to logits (B,K,h,w), or whole volumes to logits of their size.

        Raises:
            ValueError: images or logits of another shape.
        """
        self.check(images)
        logits: Tensor = self.module(images)
        if self.volume is not None:
            if logits.shape != (len(images), self.num_outputs, *self.volume):
                raise ValueError(f"logits {tuple(logits.shape)} are not (B,{self.num_outputs}) + {self.volume}")
            return logits
        if logits.ndim != 4 or logits.shape[:2] != (len(images), self.num_outputs):
            raise ValueError(f"logits of shape {tuple(logits.shape)} are not (B,{self.num_outputs},h,w)")
        return logits


def build_module(spec: ModuleSpec) -> ModuleNetwork:
    """Build the network of a spec with random weights; errors as in ``module_arguments``."""
    return ModuleNetwork(NETWORKS.get(spec.network)(**module_arguments(spec)), spec)


def module_arguments(spec: ModuleSpec) -> dict[str, Any]:
    """The keywords that a module is made with: its options, and those of the spec's sizes that it accepts.

    MONAI's names are used where a network has them: ``out_channels`` and ``img_size``, the axes of an input.

    Raises:
        UsageError: ``E-NAME-01`` an unknown network, ``E-SET-01`` options that it does not accept or lacks.
        AssetError: ``E-NAME-03`` a network whose library is not installed.
    """
    signature = inspect.signature(NETWORKS.get(spec.network))
    sizes: dict[str, Any] = {"in_channels": spec.in_channels, "num_outputs": spec.num_outputs}
    sizes |= {"input_size": spec.input_size} if spec.volume is None else {"volume": spec.volume}
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    accepted = {name: size for name, size in sizes.items() if anything or name in signature.parameters}
    named_otherwise = {"out_channels": spec.num_outputs, "img_size": spec.input_shape}
    free = signature.parameters.keys() - spec.options.keys()
    accepted |= {name: size for name, size in named_otherwise.items() if name in free}
    try:
        signature.bind(**accepted, **spec.options)
    except TypeError as error:
        what = f"the network {spec.network} cannot be made with these options"
        raise UsageError("E-SET-01", what, found=str(error), expected=f"keywords of {signature}") from error
    return accepted | spec.options
