"""Methods of others that the paper compares with, on our data, loss and scores (``docs/rivals.md``)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from trainers.methods import TRAINED_WHOLE, UNetTrainer
from trainers.rival_settings import PublicStartSettings
from trainers.semi_supervised_settings import DTCSettings, MCNetSettings, SSNetSettings, UAMTSettings

# The rate is that of UNETR's public code, with AdamW; all else is what the U-Net has, so that networks differ in
# nothing but themselves. TransUNet's own recipe is SGD at 0.01 over 150 epochs of 24 slices.
TRANSFORMER = replace(TRAINED_WHOLE, learning_rate=1e-4)
PUBLIC_START = PublicStartSettings(**vars(TRANSFORMER))


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


# SSL4MIS and the methods' own codes all drop these shares in the U-Net's encoder.
_DROPOUT = {**UNetTrainer.network_options, "dropout": [0.05, 0.1, 0.2, 0.3, 0.5]}


class UAMTTrainer(UNetTrainer):
    """UA-MT (arXiv 1907.07034) on the U-Net and on slices, where the paper's is on volumes.

    For any other trainer: ``--set finetune.consistency.kind=ua_mt``. Optimizer, length and augmentation are the
    U-Net's; the codes of this and the following methods take SGD over 30,000 iterations of 12 and 12 slices.
    """

    network_options: ClassVar[Mapping[str, Any]] = _DROPOUT
    finetune = replace(TRAINED_WHOLE, consistency=UAMTSettings())


class DTCTrainer(UNetTrainer):
    """DTC (arXiv 2009.04448) on the U-Net and on slices, where the paper's is on volumes; Dice alone, as its code."""

    network_options: ClassVar[Mapping[str, Any]] = _DROPOUT
    finetune = replace(TRAINED_WHOLE, cross_entropy=0.0, dice=1.0, consistency=DTCSettings())


class MCNetTrainer(UNetTrainer):
    """MC-Net (arXiv 2103.02911) on the U-Net and on slices; Dice alone, as in its code."""

    network_options: ClassVar[Mapping[str, Any]] = _DROPOUT
    finetune = replace(TRAINED_WHOLE, cross_entropy=0.0, dice=1.0, consistency=MCNetSettings())


class SSNetTrainer(UNetTrainer):
    """SS-Net (arXiv 2208.09278) on the U-Net and on slices; Dice alone, as in its code."""

    network_options: ClassVar[Mapping[str, Any]] = _DROPOUT
    finetune = replace(TRAINED_WHOLE, cross_entropy=0.0, dice=1.0, consistency=SSNetSettings())
