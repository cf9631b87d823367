"""Result of a trial, as plain JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from .spec import Spec

FINISHED, DIVERGED = "finished", "diverged"


@dataclass(frozen=True, kw_only=True)
class Result:
    """Outcome of one spec.

    key, kind, spec   what was asked (`Spec.key`, `Spec.kind`, `Spec.to_json`)
    status            "finished", or "diverged" (a loss or weight became NaN or infinite; then no
                      score is given)
    scores            name → number; accuracies are fractions, times end in _s (seconds)
    details           other plain JSON: class names, confusion matrix, votes, stopping reason
    cost              name → {"value", "unit", "source"}; source is "measured", "modelled" or
                      "declared"
    environment       versions, CPU, threads, commit: where it ran; no part of the identity
    made_from         what entered, name → digest
    """

    key: str
    kind: str
    spec: dict[str, Any]
    status: str = FINISHED
    scores: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, dict[str, Any]] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    made_from: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: Spec, **fields: Any) -> Result:
        """Build the result of `spec`."""
        return cls(key=spec.key, kind=spec.own_kind(), spec=spec.to_json(), **fields)

    def to_json(self) -> dict[str, object]:
        """Return every field as plain JSON: the fields themselves, not copies of them."""
        return {row.name: getattr(self, row.name) for row in fields(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Result:
        """Return the result of `to_json`."""
        return cls(**value)
