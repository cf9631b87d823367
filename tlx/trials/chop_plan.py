"""Studies of chopped and of pruned networks, and how long the chopped ones take for an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from .. import files
from ..errors import Missing, TlxError, Usage, raise_all
from ..lab import signals
from ..lab.settings import Settings
from ..lab.store import Store
from ..models import backbones, chopped, promises
from ..models.footprint import latency
from ..models.network import Network
from ..models.transferred import transferred
from ..result import FINISHED
from . import chop, pruning
from .chop import NETWORK, Chop, Chops, FromWeights
from .fewshot import Inputs
from .inputs import shared
from .layer_transfer import WEIGHTS, Sourced
from .pools import Pools, Progress, read
from .pruning import Continued, Pruning, Rounds
from .study import Study, Trial

S = TypeVar("S", bound=FromWeights)
LATENCY = "latency.json"
BATCHES = (1, 64)
TOGETHER_BYTES = 2 << 30  # of weights of networks that are timed in turns


def chop_study(spec: Chop, asked: Chops, settings: Settings, progress: Progress | None = None
               ) -> tuple[Study, list[str]]:
    """Every cut of every repeat and the whole network, ready to run, and notes; Problems with all that is wrong."""
    depth, title = _blocks(spec)
    depths = tuple(sorted(set(asked.depths))) or tuple(range(max(1, spec.freeze), depth + 1))
    problems: list[TlxError] = [Usage("out-of-range", f"{n}", where="--depths", expected=f"1 to {depth}, the blocks of "
                                      f"{title}") for n in depths if n > depth]
    if spec.freeze > min(depths, default=1):
        problems.append(Usage("out-of-range", f"{spec.freeze}", where="--freeze",
                              expected=f"at most {min(depths, default=1)}, the blocks of the smallest network"))
    raise_all(problems)
    spec, notes = _sourced(spec.but(depth=depth))
    for n in depths:  # places where it cannot be cut are told before anything is trained
        chopped.chop(backbones.sketch(spec.architecture), n, 2, 0)
    pools, inputs, spec = _data(spec, settings, progress)
    trials = tuple(Trial(spec.but(cut=n, split=repeat), Sourced(inputs, spec.start_from, spec.weight_source))
                   for repeat in range(asked.repeats) for n in (*depths, None))
    notes += pools.notes
    return _study(spec, pools, trials, "tlx.trials.chop:run", chop.EXPERIMENT, "chopped"), notes


def _blocks(spec: FromWeights) -> tuple[int, str]:
    sketch = backbones.sketch(spec.architecture)
    return len(sketch.blocks), sketch.row.title


def _sourced(spec: S) -> tuple[S, list[str]]:
    """The spec with the digest of its weights, which fit, and what was noted of them."""
    with promises.permitted(Path(spec.model or "")):
        if spec.model and not Path(spec.model).expanduser().is_file():
            raise Missing("weight file", spec.model)
    network = transferred(spec.architecture, weights=spec.start_from, copied=spec.depth if spec.start_from else 0,
                          classes=2, seed=0, source=spec.weight_source, input_size=spec.input_size)
    return spec.but(weights=network.weights), [*network.notes]


def _data(spec: S, settings: Settings, progress: Progress | None) -> tuple[Pools, Inputs, S]:
    pools = read(spec, settings, progress)
    inputs, content = pools.task(pools.folder.classes)
    return pools, inputs, spec.but(images=content)


def _study(spec: FromWeights, pools: Pools, trials: tuple[Trial, ...], call: str, experiment: str, what: str) -> Study:
    name = pools.folder.name
    return Study(key=files.digest(["study", spec.identity()]), call=call, experiment=experiment,
                 title=f"{spec.architecture} {what} on {name}", spec=shared(spec), trials=trials,
                 inputs=(pools.record(spec.images),), tags={"tlx.dataset": name},
                 preload=("tlx.models.transferred", "tlx.models.footprint", "tlx.trials.fitted"))


# ---------------------------------------------------------------- latency

def measure(store: Store, key: str, settings: Settings, tell: Callable[[int], None] = lambda count: None) -> None:
    """Time the study's networks and put the times beside its record, as latency.json; times that are there stay.

    Done after all training, when nothing else of ours runs, in this process: of every cut the network of its first
    finished repeat, in turns, warm, at `settings.threads` threads. Times are of the machine, so they are in no result.
    """
    study = store.read_study(key)
    if study is None:
        return
    device = settings.resolved_device()
    about = {"device": torch.cuda.get_device_name() if device != "cpu" else "cpu", "threads": settings.threads,
             "torch": torch.__version__}
    found: dict[str, Path] = {}
    for row in study["trials"]:
        name = str(row["spec"]["cut"] or "whole")
        if name not in found and (result := store.whole(row["key"])) and result.status == FINISHED:
            found[name] = store.file(row["key"], f"{NETWORK}.json")
    path = store.root / "studies" / key / LATENCY
    there = files.read_json(path) if path.is_file() else {}
    if not found or (there.get("about") == about and there.get("seconds", {}).keys() >= found.keys()):
        return
    tell(len(found))
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        seconds: dict[str, dict[str, float]] = {name: {} for name in found}
        for group in _groups(found):
            networks: dict[str, Network] = {name: chopped.read(found[name])[0] for name in group}
            for batch in BATCHES:
                for name, value in latency(networks, batch, device, stopping=signals.stopping).items():
                    seconds[name][str(batch)] = value
        signals.stop_if_asked()
    finally:
        torch.set_num_threads(before)
    files.write_json(path, {"about": about, "seconds": seconds})


def _groups(found: dict[str, Path]) -> list[list[str]]:
    """Networks that fit into memory together, the more the better: they take turns."""
    groups: list[list[str]] = [[]]
    room = TOGETHER_BYTES
    for name, path in found.items():
        size = path.with_suffix(".safetensors").stat().st_size
        if groups[-1] and size > room:
            groups.append([])
            room = TOGETHER_BYTES
        groups[-1].append(name)
        room -= size
    return groups


# ---------------------------------------------------------------- pruning, round by round

class PruningPlan:
    """A study of pruning: `stage(k, store)` is its k-th round, whose trials start from those of the round before."""

    def __init__(self, spec: Pruning, asked: Rounds, settings: Settings, progress: Progress | None = None):
        depth, title = _blocks(spec)
        if spec.freeze > depth:
            raise Usage("out-of-range", f"{spec.freeze}", where="--freeze", expected=f"0 to {depth}, the blocks of "
                        f"{title}")
        spec, self.notes = _sourced(spec.but(depth=depth))
        self.pools, self._inputs, self.spec = _data(spec, settings, progress)
        self.notes += self.pools.notes
        self.asked = asked
        self._keys: dict[tuple[int, int], str] = {}  # (round, repeat) → key

    def stage(self, number: int, store: Store | None) -> Study | None:
        """The trials of a round; None if no repeat came that far. Round 0 needs no store."""
        trials = []
        for repeat in range(self.asked.repeats):
            spec = self.spec.but(split=repeat, round=number)
            before = None
            if number:
                assert store is not None
                key = self._keys.get((number - 1, repeat), "")
                result = store.find(key) if key else None
                if result is None or result.status != FINISHED:
                    self.notes.append(f"repeat {repeat} diverged in round {number - 1}: pruned no further")
                    continue
                before = store.file(key, WEIGHTS)
                spec = spec.but(before=files.sha256(before))
            self._keys[number, repeat] = spec.key
            trials.append(Trial(spec, Continued(self._inputs, spec.start_from, spec.weight_source,
                                                str(before) if before else None)))
        return _study(self.spec, self.pools, tuple(trials), "tlx.trials.pruning:run", pruning.EXPERIMENT,
                      "pruned") if trials else None
