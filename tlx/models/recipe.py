"""Recipe of a fine-tuning: a declaration only, read without loading torch.

The tables that its choices name are in optimizers.py; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import UsageError
from ..spec import Spec, setting

AUGMENTS = ("none", "crop-flip", "2020", "2025")  # of training images
BN_MODES = ("frozen", "adapt", "keras2")  # of frozen blocks
REPLICAS = (1, 2, 4, 8)  # parts of a batch


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
        "sgd",
        choices=("sgd", "sgd-l2", "adam", "adamw"),
        search=("sgd", "adam", "adamw"),
        help="sgd (decoupled decay), sgd-l2 (PyTorch's: decay in the gradient), adam or adamw",
    )
    learning_rate: float = setting(
        0.01, low=1e-8, high=1e3, log=True, search=(1e-4, 1.0), help="learning rate"
    )
    weight_decay: float = setting(
        1e-4,
        low=0.0,
        high=0.5,
        search=(1e-6, 1e-2, "log"),
        only_with={"optimizer": ("sgd", "sgd-l2", "adamw")},
        help="sgd: share of each weight taken away a step; sgd-l2, adamw: as in PyTorch",
    )
    momentum: float = setting(
        0.9,
        low=0.0,
        high=0.9999,
        search=(0.0, 0.99),
        only_with={"optimizer": ("sgd", "sgd-l2")},
        help="momentum of sgd",
    )
    clip_norm: float = setting(
        1.0, low=0.0, help="largest L2 norm of each tensor's gradient; 0 turns it off"
    )
    early_stopping: bool = setting(True, help="stop as --stopping says")
    stopping: str = setting(
        "losses",
        choices=("losses", "accuracy"),
        search=False,
        only_with={"early_stopping": (True,)},
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
    bn: str = setting(
        "frozen",
        choices=BN_MODES,
        only_with={"freeze": ()},
        help="batch norm of the frozen blocks",
    )
    head_epochs: int = setting(
        0, low=0, help="epochs that train only the head, before the other blocks"
    )
    schedule: str = setting(
        "constant",
        choices=("constant", "cosine", "step"),
        search=("constant", "cosine"),
        help="course of the learning rate; step: times --step-factor every --step-epochs",
    )
    step_epochs: int = setting(
        20,
        low=1,
        high=100_000,
        search=False,
        only_with={"schedule": ("step",)},
        help="epochs after which the schedule step falls",
    )
    step_factor: float = setting(
        0.1,
        low=0.0,
        high=1.0,
        search=False,
        only_with={"schedule": ("step",)},
        help="what the rate is multiplied by then",
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
    classifier_rate: float | None = setting(
        None,
        low=0.0,
        high=1e3,
        search=False,
        help="learning rate of the head and of dense layers directly below it (VGG's classifier). "
        "Default: --learning-rate, as all",
    )
    augment: str = setting(
        "none",
        choices=AUGMENTS,
        search=False,
        help="training rows changed at random each time: crop-flip (a random part at its size, and "
        "mirrored), or turned, moved, zoomed and flipped as QUANTA did in 2020, or in 2025",
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
    replicas: int = setting(
        1,
        choices=REPLICAS,
        search=False,
        help="equal parts that every batch is cut into, for a network of ViT-L's size on several "
        "GPUs: gradients and the statistics of batch norm are those of the parts, summed in a "
        "fixed order, so that results do not depend on --replica-processes",
    )
    replica_processes: int | None = setting(
        None,
        identity=False,
        choices=REPLICAS,
        only_with={"replicas": REPLICAS[1:]},
        help="processes that share the parts of a batch, a number that divides --replicas; each "
        "takes --threads cores, or on GPUs one of them. Default: as many as the trial has GPUs, "
        "else 1",
    )
    fast_sum: bool = setting(
        False,
        search=False,
        only_with={"replicas": REPLICAS[1:]},
        help="let GPUs sum the parts in an order of their own: faster, not repeatable to the bit, "
        "and said so in the result",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.replicas:
            below = self.batch_size // self.replicas * self.replicas
            sizes = [f"--batch-size {size}" for size in (below, below + self.replicas) if size]
            raise UsageError(
                "replicas",
                f"--batch-size {self.batch_size} cannot be cut into {self.replicas} equal parts",
                where="--replicas",
                expected=f"a batch size that {self.replicas} divides",
                remedy=" or ".join(sizes),
            )
        if self.replicas > 1 and self.replicas % (self.replica_processes or 1):
            raise UsageError(
                "replicas",
                f"--replica-processes {self.replica_processes} and --replicas {self.replicas}",
                where="--replica-processes",
                expected=f"a number of processes that divides {self.replicas}",
            )

    def replica_params(self) -> dict[str, object]:
        """Return the parts of a batch for MLflow; nothing where batches are whole."""
        return {"Replicas": self.replicas} if self.replicas > 1 else {}
