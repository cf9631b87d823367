"""Recipe of a fine-tuning: a declaration only, read without loading torch.

The tables that its choices name are in optimizers.py; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..spec import Spec, setting

BN_MODES = ("frozen", "adapt", "keras2")  # of frozen blocks


@dataclass(frozen=True, kw_only=True)
class Recipe(Spec):
    """Settings of a fine-tuning.

    The defaults are those of 'When & How to Transfer with Transfer Learning'.
    """

    kind: ClassVar[str] = "recipe"

    epochs: int = setting(40, low=1, high=100_000, short="e", help="most epochs to train")
    batch_size: int = setting(
        64,
        low=1,
        high=65_536,
        short="b",
        search=(8, 256, "log"),
        help="rows a step; each crop is a row",
    )
    optimizer: str = setting(
        "sgd", choices=("sgd", "adam", "adamw"), help="sgd (decoupled decay), adam or adamw"
    )
    learning_rate: float = setting(
        0.01, low=1e-8, high=1e3, log=True, search=(1e-4, 1.0), help="learning rate"
    )
    weight_decay: float = setting(
        1e-4,
        low=0.0,
        high=0.5,
        search=(1e-6, 1e-2, "log"),
        help="sgd: share of each weight taken away a step",
    )
    momentum: float = setting(0.9, low=0.0, high=0.9999, search=(0.0, 0.99), help="momentum of sgd")
    clip_norm: float = setting(
        1.0, low=0.0, help="largest L2 norm of each tensor's gradient; 0 turns it off"
    )
    early_stopping: bool = setting(True, help="stop as --stopping says")
    stopping: str = setting(
        "losses",
        choices=("losses", "accuracy"),
        search=False,
        help="losses: after epoch 10, when "
        "four validation losses in a row do not fall; accuracy: when the best validation accuracy "
        "has "
        "not risen by 0.0001 for three epochs",
    )
    keep_epoch: str = setting(
        "best",
        choices=("best", "last"),
        search=False,
        help="whose weights count: the epoch's of the best validation accuracy, or the last one's",
    )
    freeze: int = setting(0, low=0, help="number of blocks to freeze, counted from the input")
    bn: str = setting("frozen", choices=BN_MODES, help="batch norm of the frozen blocks")
    head_epochs: int = setting(
        0, low=0, help="epochs that train only the head, before the other blocks"
    )
    schedule: str = setting(
        "constant", choices=("constant", "cosine"), help="course of the learning rate"
    )
    rate_decay: float = setting(
        0.0,
        low=0.0,
        search=False,
        help="d in rate / (1 + d · steps done), in addition to the schedule",
    )
    warmup_epochs: float = setting(0.0, low=0.0, help="epochs of linear warm-up")
    layer_decay: float = setting(
        1.0, low=0.01, high=1.0, help="factor on the learning rate per block below the head"
    )
    label_smoothing: float = setting(
        0.0, low=0.0, high=0.99, help="share of the target spread over all classes"
    )
    ema: float = setting(
        0.0,
        low=0.0,
        high=0.99999,
        help="decay of averaged weights, which are then scored; 0 is off",
    )
    precision: str = setting(
        "float32", choices=("float32", "bfloat16"), help="arithmetic of the forward pass"
    )
    channels_last: bool = setting(False, help="hold the weights channels last")
