"""Methods of others that the paper compares with, on our data, loss and scores (``docs/rivals.md``)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from trainers.methods import UNetTrainer
from trainers.rival_settings import PUBLIC_START, TRANSFORMER


class TransUNetTrainer(UNetTrainer):
    """TransUNet (arXiv 2102.04306), trained whole: ResNet-50 and ViT-B/16, 105.28 M parameters.

    It starts from random weights, or from the public ImageNet-21k file: ``--set finetune.weights=R50+ViT-B_16.npz``.
    ``--set model.as_trained=true`` takes the form of the ResNet that those weights were trained in, where the public
    code of TransUNet differs from it. Optimizer, length and augmentation are the U-Net's.
    """

    network = "transunet"
    network_options: ClassVar[Mapping[str, Any]] = {
        **{"depths": [3, 4, 9], "width": 768, "heads": 12, "layers": 12, "hidden": 3072},
        "as_trained": False,
    }
    finetune = PUBLIC_START


class UNETR2DTrainer(UNetTrainer):
    """UNETR (arXiv 2103.10504) on slices by MONAI (extra ``networks``), where the paper's is on volumes."""

    network = "unetr_2d"
    network_options: ClassVar[Mapping[str, Any]] = {
        **{"feature_size": 16, "hidden_size": 768, "mlp_dim": 3072, "num_heads": 12}
    }
    finetune = TRANSFORMER


class SwinUNETR2DTrainer(UNetTrainer):
    """Swin UNETR (arXiv 2201.01266) on slices by MONAI (extra ``networks``), from random weights.

    It is not the paper's SwinUnet, whose decoder is made of Swin blocks and whose encoder starts from ImageNet.
    """

    network = "swin_unetr_2d"
    network_options: ClassVar[Mapping[str, Any]] = {"feature_size": 24, "depths": [2, 2, 2, 2]}
    finetune = TRANSFORMER
