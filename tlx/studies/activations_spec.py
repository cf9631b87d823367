"""Settings of an extraction of activations: a declaration only, read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from ..errors import UsageError
from ..spec import Spec, setting
from .few_shot import RANDOM, FewShotTrial


@dataclass(frozen=True, kw_only=True)
class Extraction(FewShotTrial):
    """Activations of layers on all images of a data set."""

    kind: ClassVar[str] = "extraction"

    split_path: str | None = setting(None, cli=False, identity=False)
    model_selection: bool = setting(False, cli=False)
    vote: str = setting("majority", cli=False)
    use_crops: bool = setting(False, help="ten crops an image")
    trained_on: str | None = setting(
        None,
        identity=False,
        help="what the weights were trained on, as in the thesis: a source "
        "(mnist, random_init), architecture/source (vgg16/imagenet), or a weight file",
    )
    part: str = setting(
        "all", choices=("all", "train", "val", "test"), help="images of which split folder"
    )
    samples: int = setting(
        0, low=0, help="so many images, as many of each class: the first of each; 0: all"
    )
    layers: tuple[str, ...] = setting(
        (),
        help="layers by name or block number, comma-separated, or a set: blocks (all of "
        "them), last, all (input and every module), thesis, model_25, model_50, model_75, "
        "model_100. Default: blocks",
    )
    model_description: str | None = setting(
        None, identity=False, help="JSON of the original study that names the layers"
    )
    reduce: str = setting(
        "pooled",
        choices=("pooled", "flat", "first-token", "raw"),
        help="what is kept of a layer: its "
        "spatial mean, everything as one row, a transformer's class token, or as it is",
    )
    fold: bool = setting(
        True, help="fold batch norm into the convolutions: faster, other last bits"
    )
    precision: str = setting(
        "float32", choices=("float32", "bfloat16"), help="arithmetic of the forward pass"
    )
    dtype: str = setting("float32", choices=("float32", "float16"), help="numbers kept")

    @property
    def resolved(self) -> Self:
        """Return the settings with `trained_on` split into architecture, source or weight file."""
        if self.trained_on is None:
            return self
        if self.model is not None or self.source is not None:
            raise UsageError(
                "conflict", "--trained-on with --model or --source", expected="one of them"
            )
        given = self.replace(trained_on=None)
        if Path(self.trained_on).expanduser().is_file():
            return given.replace(model=self.trained_on)
        architecture, slash, source = self.trained_on.rpartition("/")
        source = RANDOM if source == "random_init" else source
        return given.replace(source=source, **({"architecture": architecture} if slash else {}))


@dataclass(frozen=True, kw_only=True)
class ModelFolder(Spec):
    """Networks of an extraction, where they are several."""

    kind: ClassVar[str] = "model-folder"

    model_folder: str = setting(
        "",
        identity=False,
        help="every weight file of a folder, one after the other; a number n or all, with "
        "--trained-on: models/<trained-on>/models_<n> as the thesis has it",
    )


@dataclass(frozen=True, kw_only=True)
class ExtractionOutput(Spec):
    """Output folder of exported activations."""

    kind: ClassVar[str] = "extraction-output"

    export: str = setting(
        "",
        identity=False,
        writes="folder",
        help="also write features.npy and file_names.txt into this folder, the layers side by side",
    )
    extracted: str = setting(
        "",
        identity=False,
        writes="file",
        help="also write the activations to this file of torch.save, as the thesis' "
        "<target>_extracted.pt: model file → layers and labels",
    )
