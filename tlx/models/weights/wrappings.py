"""Search for a network's tensors in a checkpoint: their container and wrapper prefixes.

A training checkpoint holds its state_dict under some key (`state_dict`, `model`, `model_ema`, ...),
and wrappers put their attribute before every name (`module.` of DataParallel and AveragedModel,
`_orig_mod.` of torch.compile, `backbone.` of a Lightning module, ...), in any sequence. Where the
network is known, the container and the prefix are chosen by what makes most names and shapes match;
where it is not, known keys and prefixes are removed in the order of the tables below. What was done
is recorded in notes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from .matching import COUNTER, OLD_DENSENET

CONTAINERS = (  # keys of a checkpoint that hold a state_dict, the likeliest first
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "params",
    "weights",
    "module",
    "backbone",
    "encoder",
    "teacher",
    "student",
    "target_network",
    "online_network",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema_model",
    "ema",
    "params_ema",
    "averaged_model",
)
WRAPPERS = (  # attributes under which wrappers hold a network, the likeliest first
    "module",
    "_orig_mod",
    "model",
    "net",
    "network",
    "backbone",
    "encoder",
    "encoder_q",
    "base_encoder",
    "teacher",
    "student",
    "ema",
    "ema_model",
    "model_ema",
    "averaged",
    "averaged_model",
    "online_model",
    "online_network",
    "target_network",
    "feature_extractor",
    "_forward_module",
    "student_model",
    "teacher_model",
)
INNER = (
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
)  # inside names too; never a layer's name
SCALARS = (
    "n_averaged",
    "num_updates",
    "decay",
    "initted",
    "step",
    "epoch",
    "iteration",
)  # with averaged weights
DEPTH = 4  # containers in containers


@dataclass
class _Candidate:
    """One state_dict of a checkpoint: its path, its tensors, and what is next to it."""

    path: tuple[str, ...]
    tensors: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)

    @property
    def rank(self) -> tuple[int, ...]:
        """Return a key that sorts the likeliest container first.

        All tensors of an unknown container come after.
        """
        places = [
            CONTAINERS.index(key) if key in CONTAINERS else len(CONTAINERS) for key in self.path
        ]
        return (max(places, default=len(CONTAINERS)), *places)


def opened(
    content: Mapping[object, object], like: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Return name → tensor of the state_dict in a checkpoint, and notes on what was removed.

    {} if it holds no tensor.

    like  the state_dict of the network that they are for, where it is known
    """
    candidates = sorted(_candidates(content, ()), key=lambda candidate: candidate.rank)
    if not candidates:
        return {}, []
    if like:
        own = {
            name: tuple(tensor.shape) for name, tensor in like.items() if not name.endswith(COUNTER)
        }
        fits = [_best_prefix(candidate.tensors, own) for candidate in candidates]
        best = max(range(len(fits)), key=lambda i: (fits[i].score, -i))
        if 2 * fits[best].score[1] >= len(
            own
        ):  # else it is of another network, which `load_into` says
            chosen = candidates[best]
            return fits[best].peeled(chosen.tensors, chosen.notes)
    chosen = candidates[0]
    tensors, notes = without_known_prefixes(chosen.tensors)
    return tensors, [*chosen.notes, *notes]


def _candidates(
    content: Mapping[object, object], path: tuple[str, ...], beside: tuple[str, ...] = ()
) -> Iterator[_Candidate]:
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    tensors = {
        _without_inner(key): value.detach()
        for key, value in named.items()
        if isinstance(value, Tensor)
    }
    if tensors:
        notes = []
        if path:
            others = f", next to {', '.join(beside[:5])}" if beside else ""
            notes.append(f"taken from '{'.'.join(path)}'{others}")
        if left_out := [key for key in named if not isinstance(named[key], Tensor)]:
            notes.append(f"left out, no tensors: {', '.join(left_out[:5])}")
        yield _Candidate(path, tensors, notes)
    if len(path) < DEPTH:
        for key, value in named.items():
            if isinstance(value, Mapping):
                yield from _candidates(
                    value, (*path, key), tuple(str(other) for other in content if other != key)
                )


def _without_inner(name: str) -> str:
    """Return a name without what torch.compile, FSDP and checkpointing put before layers."""
    head, dot, remaining = name.partition(".")
    for inner in INNER:
        remaining = remaining.replace(inner, "")
    return head + dot + remaining


# ---------------------------------------------------------------- prefixes, where the network is
# known


@dataclass(frozen=True)
class _Fit:
    """Fit of a state_dict once `prefix` is removed.

    score: names of equal shape, names of any shape.
    """

    prefix: str
    score: tuple[int, int]
    also: tuple[str, ...] = ()  # other prefixes that fit as well

    def peeled(
        self, tensors: Mapping[str, Tensor], notes: list[str]
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Return the tensors after the prefix under their own names, and notes."""
        if not self.prefix:
            return {
                name: tensor for name, tensor in tensors.items() if not _is_scalar(name, tensor)
            }, notes
        peeled = {
            name.removeprefix(self.prefix): t
            for name, t in tensors.items()
            if name.startswith(self.prefix)
        }
        known = all(piece in WRAPPERS for piece in self.prefix.rstrip(".").split("."))
        notes = [
            *notes,
            f"prefix '{self.prefix}' removed" + ("" if known else ", for then the names match"),
        ]
        if self.also:
            notes.append(
                f"the same names are also there behind {', '.join(map(repr, self.also))}: not used"
            )
        others = [name for name in tensors if not name.startswith((self.prefix, *self.also))]
        if others:
            notes.append(
                f"left out, without that prefix: {', '.join(others[:5])}"
                + (f" and {len(others) - 5} more" if len(others) > 5 else "")
            )
        return peeled, notes


def _best_prefix(tensors: Mapping[str, Tensor], own: Mapping[str, tuple[int, ...]]) -> _Fit:
    """Return the prefix after which most names (and shapes) are those of the network."""
    same, named = Counter[str](), Counter[str]()
    for name, tensor in tensors.items():
        for prefix, remaining in _splits(OLD_DENSENET.sub(r"\1\2.", name)):
            if remaining in own:
                named[prefix] += 1
                same[prefix] += tuple(tensor.shape) == own[remaining]
    prefixes = sorted(
        {"", *named}, key=lambda prefix: (-same[prefix], -named[prefix], _rank(prefix))
    )
    score = same[prefixes[0]], named[prefixes[0]]
    also = [
        prefix
        for prefix in prefixes[1:]
        if prefix and (same[prefix], named[prefix]) == score != (0, 0)
    ]
    return _Fit(prefixes[0], score, tuple(also))


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Iterate over all splits of a name into a prefix (empty or dotted) and the remainder."""
    yield "", name
    at = name.find(".")
    while at >= 0:
        yield name[: at + 1], name[at + 1 :]
        at = name.find(".", at + 1)


def _rank(prefix: str) -> tuple[int, ...]:
    """Return a key that sorts no prefix first, then short ones, then the likelier wrapper."""
    pieces = prefix.rstrip(".").split(".") if prefix else []
    return (
        len(pieces),
        *(WRAPPERS.index(piece) if piece in WRAPPERS else len(WRAPPERS) for piece in pieces),
    )


# ---------------------------------------------------------------- prefixes, where it is not


def without_known_prefixes(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors without the wrappers that all names share, and notes."""
    result = {name: tensor for name, tensor in tensors.items() if not _is_scalar(name, tensor)}
    removed = ""
    while result:
        pieces = {name.partition(".")[0] for name in result}
        piece = next(iter(pieces))
        if len(pieces) > 1 or piece not in WRAPPERS or not all("." in name for name in result):
            break
        result = {name.partition(".")[2]: tensor for name, tensor in result.items()}
        removed += piece + "."
    if not removed:
        return result, []
    return result, [f"prefix '{removed}' removed"]


def _is_scalar(name: str, tensor: Tensor) -> bool:
    """Return whether this is a counter that accompanies averaged weights."""
    return tensor.ndim == 0 and name in SCALARS
