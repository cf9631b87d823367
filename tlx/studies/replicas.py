"""Processes of a trial whose batches are cut: who starts them, and what is refused before."""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import BadDataError, UsageError, counted
from ..lab import signals
from ..lab.engines import wire
from ..lab.engines import worker as engines_worker
from ..lab.settings import Settings, gpu_count
from ..models.recipe import REPLICAS, Recipe
from ..spec import Spec

if TYPE_CHECKING:
    from ..lab.engines.companions import CompanionLink
    from ..models.process_group import Membership, ProcessTeam
    from ..models.replicas import Recruit
    from ..models.training import FollowerJob

FOLLOW = "tlx.studies.replicas:follow"
PRELOAD = ("torch", "torch.distributed", "tlx.models.training", "tlx.studies.replicas")


@dataclass(frozen=True)
class FollowerRequest:
    """What a companion of a trial is sent: the packed job, its place, its threads."""

    body: bytes
    member: Membership
    threads: int


def recruiter(device: str, stopping: Callable[[], bool]) -> Recruit[FollowerJob] | None:
    """Return what starts the other processes of a training.

    None unless this process is a trial's own: if another of them dies, it ends with it.
    """
    if engines_worker.current() is None:
        return None
    return functools.partial(recruit, device=device, stopping=stopping)


@contextlib.contextmanager
def recruit(
    job: FollowerJob,
    size: int,
    *,
    device: str,
    stopping: Callable[[], bool] = signals.stopping,
    call: str = FOLLOW,
) -> Iterator[ProcessTeam]:
    """Start the other processes of a training and join them inside the block.

    call  what they run; another one in tests

    Raises ResourceError where they cannot be started or joined, BadDataError for a network that
    cannot be sent.
    """
    import torch

    from ..lab.engines import companions
    from ..models import process_group

    process_group.refuse_missing(device, size)
    body = _packed(job)
    with contextlib.closing(process_group.listener()) as bound:
        members = [
            process_group.Membership(rank, size, bound.getsockname()[1], device)
            for rank in range(size)
        ]
        threads = torch.get_num_threads()
        args = [(FollowerRequest(body, member, threads),) for member in members[1:]]
        with companions.Companions(
            call, args, threads=threads, preload=PRELOAD, stopping=stopping
        ) as link:
            link.meet(companions.START_S)
            with process_group.joined(members[0], link, bound) as team:
                try:
                    yield team
                except BaseException:
                    link.kill()
                    raise
                link.dismiss()  # all leave the group together


def follow(request: FollowerRequest, *, link: CompanionLink) -> None:
    """Share the training of a trial, in a process of its own."""
    from ..models import process_group, training

    training.deterministic(request.threads)
    job = wire.unpacked(request.body, training.FollowerJob)
    link.meet()
    with process_group.joined(request.member, link) as team:
        training.follow(job, team, request.member.own_device, signals.stopping)
        link.wait_for_end()


def _packed(job: FollowerJob) -> bytes:
    from dataclasses import replace

    if any(tensor.is_cuda for tensor in job.network.state_dict().values()):
        job = replace(job, network=copy.deepcopy(job.network).cpu())
    try:
        return wire.packed(job)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise BadDataError(
            "unpicklable",
            f"cannot send the training to another process ({error})",
            remedy="--replica-processes 1",
        ) from error


# ---------------------------------------------------------------- before a study


def processes_of(specs: Iterable[Spec]) -> int:
    """Return the processes that a trial of any of these specs asks for."""
    asked = [spec.replica_processes or 1 for spec in specs if isinstance(spec, Recipe)]
    return max(asked, default=1)


def devices(
    specs: Iterable[Spec], settings: Settings, device: str, workers: int
) -> tuple[str, ...]:
    """Return a CUDA_VISIBLE_DEVICES for each of so many workers; () leaves the GPUs as they are."""
    if device != "cuda" or workers < 2 or settings.on_cluster:
        return ()
    each = max((_gpus_each(spec, workers) for spec in specs), default=1)
    return tuple(
        ",".join(map(str, range(worker * each, (worker + 1) * each))) for worker in range(workers)
    )


def _gpus_each(spec: Spec, workers: int) -> int:
    """Return the GPUs of a trial, of which so many run at once on this machine."""
    if not isinstance(spec, Recipe) or spec.replicas == 1:
        return 1
    if spec.replica_processes is not None:
        return spec.replica_processes
    share = max(1, gpu_count() // workers)
    return max(size for size in REPLICAS if spec.replicas % size == 0 and size <= share)


def placed(spec: Spec, settings: Settings) -> Spec:
    """Return a trial's spec as it is computed here: on a cluster by one process if none is given.

    A node may show a trial more GPUs than it was given.
    """
    if isinstance(spec, Recipe) and spec.replicas > 1 and settings.on_cluster:
        return spec.replace(replica_processes=spec.replica_processes or 1)
    return spec


def check(specs: Iterable[Spec], settings: Settings) -> list[str]:
    """Return what the processes of a trial take, in words, where batches are cut.

    Raises UsageError for processes that cannot be, and for options without an effect, before
    anything is computed.
    """
    notes = []
    for spec in specs:
        if isinstance(spec, Recipe) and spec.replicas > 1:
            _check(spec, settings)
            notes.append(_note(spec, settings))
    return notes


def _check(spec: Recipe, settings: Settings) -> None:
    size = spec.replica_processes or 1
    if size > 1 and settings.workers == 0:
        raise UsageError(
            "conflict",
            f"--replica-processes {size} and --workers 0",
            expected="trials in processes of their own",
            remedy="--workers 1",
        )
    if size > 1 and settings.on_cluster and settings.gpus not in (None, 0.0, 1.0):
        raise UsageError(
            "conflict",
            f"--replica-processes {size} and --gpus {settings.gpus:g}",
            expected="a whole GPU for each process: --gpus 1",
        )
    if settings.on_cluster:
        if spec.fast_sum and (settings.device == "cpu" or size == 1):
            raise _no_fast_sum("--device cpu" if settings.device == "cpu" else "one process")
        return
    device = settings.resolved_device()
    if device == "cpu":
        if spec.fast_sum:
            raise _no_fast_sum("a CPU")
        return
    if size > 1 and device != "cuda":
        raise UsageError(
            "conflict",
            f"--replica-processes {size} and --device {device}",
            expected="a GPU for each process: --device cuda",
        )
    _check_gpus(spec, settings, size)


def _check_gpus(spec: Recipe, settings: Settings, size: int) -> None:
    """Raise UsageError where this machine has not the GPUs that were asked for."""
    gpus, at_once = gpu_count(), max(1, settings.workers or 1)
    if size > 1 and size * at_once > gpus:
        raise UsageError(
            "replicas",
            f"--replica-processes {size}"
            + (f" and --workers {at_once}" if at_once > 1 else "")
            + f" take {size * at_once} GPUs, of which this machine has {gpus}",
            expected="a GPU for each process",
            remedy="use fewer: results are the same",
        )
    has_several = size > 1 or (spec.replica_processes is None and gpus // at_once > 1)
    if spec.fast_sum and not has_several:
        raise _no_fast_sum("one process")


def _no_fast_sum(of: str) -> UsageError:
    return UsageError(
        "no-effect",
        f"--fast-sum on {of}",
        expected="several GPUs in a trial, whose sums it makes faster",
        remedy="leave out --fast-sum",
    )


def _note(spec: Recipe, settings: Settings) -> str:
    size = spec.replica_processes
    parts = f"batches are cut into {spec.replicas} parts of {spec.batch_size // spec.replicas} rows"
    if size is None and settings.on_cluster:
        return f"{parts}, computed by one process (--replica-processes: by more)"
    if size is None:
        return f"{parts}, shared by as many processes as a trial has GPUs (on CPUs: one)"
    threads = counted(settings.threads, "thread")
    if size == 1:
        return f"{parts}; a trial takes one process with {threads}"
    return f"{parts}; a trial takes {size} processes, each with {threads}"


def refuse_in_search(spec: Recipe) -> None:
    """Raise UsageError for a search whose batches are to be cut."""
    if spec.replicas > 1:
        raise UsageError(
            "replicas",
            f"--replicas {spec.replicas} in a search, which tries batch sizes of its own",
            expected="whole batches; more trials at once (--workers) use the machine better",
            remedy="leave it out; train the best configuration with it: tlx fine-tuning --replicas",
        )
