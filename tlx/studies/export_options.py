"""Settings that export the model of a study at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..spec import Spec, setting

SERVED = "served"  # folder of the cache with models that were made again


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Spec):
    """Whether and where the model of a study is exported at its end, as `tlx export KEY` does."""

    kind: ClassVar[str] = "export-options"

    export: str | None = setting(
        None,
        identity=False,
        writes="folder",
        help="folder to write the model of the study to at its end, as tlx export KEY does",
    )
    register: str | None = setting(
        None,
        identity=False,
        help="register the model of the study in MLflow under this name, as tlx export KEY does",
    )
    alias: str | None = setting(
        None,
        identity=False,
        only_with={"register": ()},
        help="alias for the registered version",
    )
    refit: bool = setting(
        False,
        identity=False,
        only_with={"export": (), "register": ()},
        help="with --export or --register: train the model again on all training images instead "
        "of those of one draw",
    )

    @property
    def is_wanted(self) -> bool:
        """Return whether a model is exported or registered."""
        return self.export is not None or self.register is not None
