"""Recipes of the original studies: settings that one word of --recipe gives.

A setting that is given beside the word takes precedence. The word itself is no part of a trial's
key: the settings are, so that the long way of asking finds the same trial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..spec import Spec, setting

Recipes = dict[str, dict[str, Any]]
SGD = {"optimizer": "sgd-l2", "momentum": 0.9, "clip_norm": 0.0, "early_stopping": False}
PRETRAINING: Recipes = {
    "imagenet": SGD
    | {  # 'Parameter distance': pretrain_on_ImageNet.py
        "architecture": "resnet50",
        "epochs": 120,
        "batch_size": 256,
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
        "schedule": "step",
        "step_epochs": 40,
        "step_factor": 0.1,
        "augment": "crop-flip",
    },
    "thesis-vgg": SGD
    | {  # 'Transferability in DNN': train.py on custom3D, malaria and pets
        "architecture": "vgg16-4096",
        "epochs": 100,
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "schedule": "step",
        "step_epochs": 20,
        "step_factor": 0.1,
    },
}
VGG_RATES = SGD | {  # 'Transferability in DNN': finetune_vgg16.py
    "architecture": "vgg16-4096",
    "epochs": 100,
    "learning_rate": 1e-4,
    "classifier_rate": 1e-3,
    "weight_decay": 0.0,
    "keep_epoch": "last",
    "schedule": "step",
    "step_epochs": 20,
    "step_factor": 0.1,
}
FINE_TUNING: Recipes = {
    "thesis-vgg": VGG_RATES | {"freeze": 12, "reinit_blocks": 3, "use_crops": False},
}
LAYER_TRANSFER: Recipes = {
    "thesis-vgg": VGG_RATES | {"source": "default", "treatments": ("AnB",), "depths": (12,)},
    "mobilenet": {  # 'feature-transfer': transfer-network.py
        "architecture": "mobilenet-v1",
        "epochs": 15,
        "batch_size": 64,
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "rate_decay": 5e-4,
        "stopping": "accuracy",
        "keep_epoch": "last",
        "sizing": "nearest",
        "bn": ("keras2",),
    },
}
PARAMETER_DISTANCE: Recipes = {
    "finetune": SGD
    | {  # 'Parameter distance': finetune.py
        "epochs": 100,
        "batch_size": 128,
        "learning_rate": 0.01,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "augment": "crop-flip",
    },
}


@dataclass(frozen=True, kw_only=True)
class PretrainingRecipe(Spec):
    """Recipe of a pretraining."""

    kind: ClassVar[str] = "pretraining-recipe"

    recipe: str | None = setting(
        None,
        choices=tuple(PRETRAINING),
        presets=PRETRAINING,
        identity=False,
        help="settings of an original, where not given: imagenet (ResNet-50, 120 epochs, "
        "rate 0.1 falling every 40, coupled decay, crop-flip) or thesis-vgg (VGG16, 100 epochs, "
        "rate 0.01 falling every 20)",
    )


@dataclass(frozen=True, kw_only=True)
class FineTuningRecipe(Spec):
    """Recipe of a fine-tuning on few images."""

    kind: ClassVar[str] = "fine-tuning-recipe"

    recipe: str | None = setting(
        None,
        choices=tuple(FINE_TUNING),
        presets=FINE_TUNING,
        identity=False,
        help="settings of an original, where not given: thesis-vgg (VGG16, the last "
        "convolution and the dense layers drawn anew and trained, all else frozen; rate 1e-4, "
        "1e-3 for dense layers, falling every 20 of 100 epochs)",
    )


@dataclass(frozen=True, kw_only=True)
class LayerTransferRecipe(Spec):
    """Recipe of a layer transfer."""

    kind: ClassVar[str] = "layer-transfer-recipe"

    recipe: str | None = setting(
        None,
        choices=tuple(LAYER_TRANSFER),
        presets=LAYER_TRANSFER,
        identity=False,
        help="settings of an original, where not given: thesis-vgg (VGG16, the last "
        "convolution and the dense layers drawn anew and trained on all images, all else frozen) "
        "or mobilenet (MobileNet v1 with decaying rate, early stopping on accuracy, the last "
        "weights, nearest neighbour, batch norm of Keras 2.2)",
    )


@dataclass(frozen=True, kw_only=True)
class DistanceRecipe(Spec):
    """Recipe of the fine-tunings of a parameter distance."""

    kind: ClassVar[str] = "distance-recipe"

    recipe: str | None = setting(
        None,
        choices=tuple(PARAMETER_DISTANCE),
        presets=PARAMETER_DISTANCE,
        identity=False,
        help="settings of an original, where not given: finetune (100 epochs, rate 0.01 on "
        "a cosine, coupled decay, batches of 128, crop-flip)",
    )
