"""Weights: tensors by name, with notes on how they were read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch


class Weights(dict[str, torch.Tensor]):
    """Tensors by name.

    kind      "torch" (PyTorch's names and layouts) or "keras" (Keras' layer names, layouts already
              turned)
    notes     what was done to them, in words, each once: wrappers opened, prefixes removed, types
              widened
    metadata  further text in the file
    sha256    digest (hex) of the file that they were read from; "" for tensors that come from no
              file
    """

    sha256 = ""

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        *,
        kind: str = "torch",
        notes: Iterable[str] = (),
        metadata: Mapping[str, str] | None = None,
    ):
        super().__init__(tensors)
        self.kind, self.notes, self.metadata = (
            kind,
            list(dict.fromkeys(notes)),
            dict(metadata or {}),
        )

    def note(self, text: str) -> None:
        """Add a note unless it is already present."""
        if text not in self.notes:
            self.notes.append(text)

    def renamed(self, tensors: Mapping[str, torch.Tensor], note: str = "") -> Weights:
        """Return these weights under other names, in PyTorch's way."""
        notes = [*self.notes, note] if note else self.notes
        renamed = Weights(tensors, notes=notes, metadata=self.metadata)
        renamed.sha256 = self.sha256
        return renamed
