"""Loading of tensors into a network by name, with a report of how many fitted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ...errors import BadDataError, counted

COUNTER = (
    "num_batches_tracked"  # absent from files of PyTorch before 0.4.1, and used by nothing here
)
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


@dataclass(frozen=True)
class WeightMatch:
    """Report of how the tensors of a file fitted a network.

    matched, total  tensors of the network that the file had, and that it has, without the ignored
                    ones
    missing         names that the network has and the file has not
    unexpected      names that the file has and the network has not
    renamed         file's name → network's name, where they differ
    absent          ignored names of the network that the file has not, or of another shape
    """

    matched: int
    total: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Return matched of total, a fraction; 1 when there is nothing to match."""
        return self.matched / self.total if self.total else 1.0

    def __str__(self) -> str:
        return f"{self.matched} of {counted(self.total, 'tensor')} matched"


def load_into(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    least: float = 0.95,
    ignore: Iterable[str] = (),
) -> WeightMatch:
    """Copy the tensors of `state` into `module` by name.

    All that fit, or none when too few do.

    least   fraction of the module's tensors that must be there
    ignore  names of modules (the head) whose tensors may be absent or of another shape; they are
            copied if they fit
    Raises BadDataError when fewer match, or when one outside `ignore` has another shape.
    """
    own = module.state_dict()
    given, renamed = _renamed(state)
    ignored = {k for k in own if any(k == name or k.startswith(name + ".") for name in ignore)}
    fitting = {k for k in own if k in given and given[k].shape == own[k].shape}
    wanted = {k for k in own if k not in ignored and not k.endswith(COUNTER)}
    match = WeightMatch(
        len(fitting & wanted),
        len(wanted),
        tuple(k for k in own if k in wanted and k not in given),
        tuple(k for k in given if k not in own and not k.endswith(COUNTER)),
        renamed,
        tuple(k for k in own if k in ignored - fitting and not k.endswith(COUNTER)),
    )
    differing = [k for k in own if k in wanted and k in given and k not in fitting]
    if match.share < least:
        raise _too_few(match, least, differing)
    if differing:
        first, more = differing[0], f", and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise BadDataError(
            "weights-shape",
            f"'{first}' is {tuple(given[first].shape)}{more}",
            expected=f"{tuple(own[first].shape)}",
            remedy="only the head may differ",
        )
    with torch.no_grad():
        for k in sorted(fitting):
            own[k].copy_(given[k])
    return match


def _too_few(match: WeightMatch, least: float, differing: list[str]) -> BadDataError:
    kinds = {
        "missing": match.missing,
        "unexpected": match.unexpected,
        "of another shape": differing,
    }
    first = "; ".join(f"first {what}: '{names[0]}'" for what, names in kinds.items() if names)
    return BadDataError(
        "weights-match",
        f"{match} ({match.share:.0%}); {first}",
        expected=f"at least {least:.0%}",
        remedy="is this file for another architecture?",
    )


def _renamed(
    state: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], tuple[tuple[str, str], ...]]:
    """Return old spellings of torchvision's DenseNets as the new ones."""
    pairs = [(k, OLD_DENSENET.sub(r"\1\2.", k)) for k in state]
    return {new: state[old] for old, new in pairs}, tuple(
        (old, new) for old, new in pairs if old != new
    )
