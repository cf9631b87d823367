"""Trials of several processes: the same result wherever the parts are computed, also after one of
the processes was killed; what is refused before; what engines and clusters are asked for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import types

import processes
import psutil
import pytest
import undrawn

from tlx.errors import ResourceError, TlxError, UsageError
from tlx.lab import settings as lab_settings
from tlx.lab.engines import ENGINES, cluster, companions
from tlx.lab.settings import Settings
from tlx.lab.store import reproducible_fields
from tlx.lab.tasks import Failed, Progress, RunOptions, Started, Task
from tlx.models.recipe import Recipe
from tlx.spec import make_specs
from tlx.studies import STUDIES, planning, replicas, runner
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning.plan import fine_tuning_study
from tlx.studies.fine_tuning.spec import FineTuning
from tlx.studies.pretraining_spec import PreTraining
from tlx.studies.session import Session, run_study

SPEC = FineTuning(epochs=6, batch_size=8, replicas=2, use_crops=False, early_stopping=False)
DRAWS = FewShotGrid(shots=(4,), splits=1, val_per_class=3)


def run(bars, settings, number, watch=lambda event: None):
    """Run the one trial by so many processes; return its result."""
    spec = SPEC.replace(dataset=str(bars), replica_processes=number)
    stage, _ = fine_tuning_study(spec, DRAWS, settings)
    report = undrawn.run_stage(stage, settings, watch)
    report.raise_if_failed(require_tracking=False)
    return report.results[0]


def comparable(result):
    """All that two results of one key must agree in."""
    return reproducible_fields(result)


@pytest.fixture
def earlier():
    """Processes that ran before the test: the clusters of other tests have trials too."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.fixture
def members(earlier):
    """The companions of the trial that a test runs: of its group, by its server, and not dead."""

    def find():
        groups: dict[int, list[psutil.Process]] = {}
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    groups.setdefault(os.getpgid(child.pid), []).append(child)
        for group, found in groups.items():
            if group in earlier or group not in {p.pid for p in found}:
                continue
            servers = {p.pid for p in found if p.ppid() == group}
            companions = [p for p in found if p.ppid() in servers]
            if companions:
                return companions
        return []

    return find


@pytest.fixture(scope="module")
def alone(bars, cache, tmp_path_factory):
    """The result of one process."""
    folder = tmp_path_factory.mktemp("alone")
    settings = Settings(
        store=str(folder), cache=str(cache), tracking=False, workers=0, system_metrics=False
    )
    return run(bars, settings, 1)


@pytest.mark.slow
def test_a_killed_process_costs_an_attempt_and_changes_no_bit(bars, settings, alone, members):
    events, killed, seen = [], [], []

    def watch(event):
        events.append(event)
        if isinstance(event, Progress):
            companions = members()
            seen.extend(companions)
            if event.values.get("epoch") == 3.0 and not killed:
                killed.append(companions[0])
                killed[0].send_signal(signal.SIGKILL)

    result = run(bars, settings.replace(workers=1), 2, watch)
    failed = [event for event in events if isinstance(event, Failed)]
    assert len(killed) == 1
    assert [(event.error.code, event.will_retry) for event in failed] == [("worker-killed", True)]
    assert [event.attempt for event in events if isinstance(event, Started)] == [1, 2]
    assert comparable(result) == comparable(alone)
    assert result.details["replicas"] == {"parts": 2, "sum": "fixed tree"}
    epochs = [e.values["epoch"] for e in events if isinstance(e, Progress) and "epoch" in e.values]
    assert len(epochs) - len(set(epochs)) <= 3, "it went on from the last epoch, reported again"
    assert len({p.pid for p in seen}) >= 2, "each attempt has a companion of its own"
    psutil.wait_procs(seen, timeout=5)
    assert not [p for p in seen if p.is_running()]
    assert result.cost["cpu_s"]["value"] > 0


@pytest.mark.parametrize(
    ("code", "signals", "exits"),
    [
        (-signal.SIGKILL, [signal.SIGKILL], []),
        (-signal.SIGSEGV, [signal.SIGSEGV], []),
        (3, [], [1]),
        (0, [], [1]),
    ],
)
def test_a_trial_ends_as_its_companion_did(monkeypatch, tmp_path, code, signals, exits):
    """So that the engine's table of codes says what happened."""
    ends: dict[str, list[int]] = {"signals": [], "exits": []}

    class EndedError(Exception):
        pass

    def end(kind, number):
        ends[kind].append(number)
        raise EndedError

    monkeypatch.setattr(companions.os, "kill", lambda pid, number: end("signals", number))
    monkeypatch.setattr(companions.os, "_exit", lambda number: end("exits", number))
    dead = types.SimpleNamespace(
        exitcode=code, name="process 1", join=lambda: None, kill=lambda: None
    )
    trial = companions.Companions.__new__(companions.Companions)
    trial.processes, trial.log = [dead], tmp_path / "log"
    with pytest.raises(EndedError):
        trial._end_like(dead)
    assert ends == {"signals": signals, "exits": exits}
    is_noted = (tmp_path / "log").exists()
    assert is_noted == (code != -signal.SIGKILL)


@pytest.mark.crash
def test_a_process_that_freezes_is_given_up_in_time(tmp_path, members):
    """In the trial's process an exchange waits for two seconds here, not ten minutes."""
    task = Task("key", "frozen", "parted:train_with_a_frozen_companion")
    events = []
    (outcome,) = ENGINES["local"](
        [task],
        workers=1,
        on_event=events.append,
        options=RunOptions(retries=0, log_folder=tmp_path, preload=runner.PRELOAD),
    )
    assert outcome.error.code == "worker-lost"
    assert "do not answer each other" in (tmp_path / "key.log").read_text()
    assert not members()


@pytest.mark.crash
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_command_leaves_no_process_and_goes_on(
    bars, cache, settings, tmp_path, alone, number
):
    words = f"""fine-tuning --dataset {bars} --shots 4 --splits 1 --val-per-class 3 --epochs 6
        --batch-size 8 --no-use-crops --no-early-stopping --replicas 2 --replica-processes 2
        --workers 1 --no-tracking --verbose --no-system-metrics --store runs""".split()
    process = processes.Popen(
        [sys.executable, "-m", "tlx", *words],
        cwd=tmp_path,
        env={**os.environ, "TLX_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if "epoch 2" in line:
            break
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) >= 4, "two servers, the trial and its companion"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (128 + number, -number), out + err
    _, left = psutil.wait_procs(below, timeout=10)
    assert not left
    (draft,) = (tmp_path / "runs" / "trials").glob("*.part")
    assert (draft / "training.safetensors").exists()
    assert comparable(run(bars, settings, 1)) == comparable(alone), "another number goes on"


# ---------------------------------------------------------------- refused before anything is done


def refusal(study, settings=None, /, **more):
    own = STUDIES[study]
    specs = make_specs((*own.specs, Settings), {"tracking": False, **(settings or {}), **more})
    given, places = specs[:-1], specs[-1]
    with pytest.raises(TlxError) as refused:
        run_study(own(*given), Session(places))
    with pytest.raises(TlxError) as planned:
        planning.plan_study(own(*given), Session(places))
    assert str(planned.value) == str(refused.value), "planning refuses what running does"
    assert refused.value.exit_code == 2
    return str(refused.value)


@pytest.mark.parametrize("study", ["fine-tuning", "pretrain", "layer-transfer", "chop", "prune"])
def test_processes_need_a_trial_of_its_own(study, tmp_path):
    message = refusal(
        study, {"workers": 0, "store": str(tmp_path)}, replicas=4, replica_processes=2
    )
    assert "--workers 1" in message


@pytest.mark.parametrize("study", ["fine-tuning", "pretrain"])
def test_a_fast_sum_is_refused_where_it_has_no_effect(study, tmp_path):
    message = refusal(study, {"device": "cpu", "store": str(tmp_path)}, replicas=4, fast_sum=True)
    assert "leave out --fast-sum" in message


def test_a_search_refuses_parts(tmp_path):
    message = refusal("tune", {"store": str(tmp_path)}, study="fine-tuning", replicas=4)
    assert "tlx fine-tuning --replicas" in message


@pytest.mark.parametrize("study", ["quanta", "checkpoints", "feature-extraction", "evaluate"])
def test_studies_without_a_recipe_do_not_know_parts(study):
    with pytest.raises(TlxError) as refused:
        make_specs((*STUDIES[study].specs, Settings), {"replicas": 2})
    assert refused.value.exit_code == 2
    assert "replicas" in str(refused.value)


def test_the_parts_are_shown_with_a_trial():
    for kind in (FineTuning, PreTraining):
        assert kind(replicas=4).mlflow_params()["Replicas"] == 4
        assert "Replicas" not in kind().mlflow_params()


RECIPE = Recipe(replicas=4)


@pytest.mark.parametrize(
    ("gpus", "given", "settings", "words"),
    [
        (2, {"replica_processes": 4}, {}, "this machine has 2"),
        (4, {"replica_processes": 2}, {"workers": 3}, "take 6 GPUs"),
        (4, {"replica_processes": 2}, {"device": "cuda:1"}, "--device cuda"),
        (1, {"fast_sum": True}, {}, "leave out --fast-sum"),
        (4, {"fast_sum": True, "replica_processes": 1}, {}, "leave out --fast-sum"),
        (4, {"fast_sum": True}, {"workers": 4}, "leave out --fast-sum"),
        (
            0,
            {"replica_processes": 2},
            {"engine": "ray", "address": "auto", "gpus": 0.5},
            "--gpus 1",
        ),
        (
            0,
            {"fast_sum": True},
            {"engine": "dask", "address": "tcp://h:1", "device": "cpu"},
            "leave out",
        ),
    ],
)
def test_processes_that_cannot_be_are_refused(monkeypatch, gpus, given, settings, words):
    gpus_here(monkeypatch, gpus)
    with pytest.raises(UsageError) as refused:
        replicas.check([RECIPE.replace(**given)], Settings(**settings))
    assert words in str(refused.value)


def gpus_here(monkeypatch, count):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "as many processes as a trial has GPUs"),
        ({"replica_processes": 1}, "one process with 3 threads"),
        ({"replica_processes": 2}, "2 processes, each with 3 threads"),
    ],
)
def test_the_plan_says_what_a_trial_takes(given, words):
    (note,) = replicas.check([RECIPE.replace(**given)], Settings(threads=3, device="cpu"))
    assert "4 parts of 16 rows" in note
    assert words in note
    assert replicas.check([Recipe(), FewShotGrid()], Settings(device="cpu")) == []


# ---------------------------------------------------------------- what engines are asked for


@pytest.mark.parametrize(
    ("gpus", "workers", "given", "expected"),
    [
        (4, 4, {}, ("0", "1", "2", "3")),
        (4, 2, {}, ("0,1", "2,3")),
        (8, 2, {"replicas": 2}, ("0,1", "2,3")),
        (4, 2, {"replica_processes": 1}, ("0", "1")),
        (3, 2, {}, ("0", "1")),
        (4, 1, {}, ()),
    ],
)
def test_trials_at_once_share_the_gpus(monkeypatch, gpus, workers, given, expected):
    gpus_here(monkeypatch, gpus)
    recipe = RECIPE.replace(**given)
    assert replicas.devices([recipe], Settings(), "cuda", workers) == expected
    whole = replicas.devices([Recipe()], Settings(), "cuda", workers)
    assert whole == (tuple(map(str, range(workers))) if workers > 1 else ())
    assert replicas.devices([recipe], Settings(), "cpu", workers) == ()


def test_fewer_trials_at_once_where_each_has_several_processes(monkeypatch):
    monkeypatch.setattr(lab_settings.os, "sched_getaffinity", lambda pid: set(range(8)))
    gpus_here(monkeypatch, 4)
    settings = Settings(threads=2)
    assert [settings.resolved_workers("cpu", 9, n) for n in (1, 2, 4, 8)] == [4, 2, 1, 1]
    assert [settings.resolved_workers("cuda", 9, n) for n in (1, 2, 4)] == [4, 2, 1]
    assert replicas.processes_of([Recipe(), RECIPE.replace(replica_processes=2)]) == 2
    assert replicas.processes_of([Recipe(), RECIPE, FewShotGrid()]) == 1


@pytest.mark.parametrize(
    ("asked", "number", "most", "expected"),
    [(None, 1, 0, 0), (None, 1, 4, 1), (None, 4, 4, 4), (1, 2, 4, 2), (0.25, 1, 1, 0.25)],
)
def test_a_cluster_is_asked_for_a_share_for_each_process(asked, number, most, expected):
    assert cluster.gpus_a_task(asked, number, most) == expected


class FakeRay:
    """A cluster of one node with 8 CPUs and 4 GPUs, which notes what it is asked for."""

    def __init__(self):
        self.asked = {}

    def options(self, **asked):
        self.asked = asked
        return self

    def remote(self, attempt, has_gpu):
        raise ResourceError("asked", "")


def test_ray_is_asked_for_the_cpus_and_gpus_of_all_processes(monkeypatch):
    ray = pytest.importorskip("tlx.lab.engines.ray")
    nodes = [{"NodeID": "n", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0}}]
    monkeypatch.setattr(ray.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "_connect", lambda address: None)
    monkeypatch.setattr(ray, "_disconnect", lambda: None)
    fake = FakeRay()
    monkeypatch.setattr(ray.ray, "remote", lambda *_, **__: lambda function: fake)
    monkeypatch.setattr(
        ray.ray, "get_runtime_context", lambda: type("Context", (), {"gcs_address": "h:1"})
    )
    for threads, number, gpus in ((1, 1, 1.0), (2, 4, 4.0)):
        connected = ray.RayCluster(RunOptions(processes=number), threads)
        try:
            assert connected.slots() == 8 // (threads * number)
            attempt = type("Attempt", (), {"title": "t", "name": "a"})
            with pytest.raises(ResourceError):
                connected.submit(attempt, first=False, avoid=())
            assert (fake.asked["num_cpus"], fake.asked["num_gpus"]) == (threads * number, gpus)
        finally:
            connected.close()
    with pytest.raises(ResourceError) as refused:
        ray.RayCluster(RunOptions(processes=4), 4)
    assert "--threads 2, or fewer --replica-processes" in str(refused.value)
    with pytest.raises(ResourceError) as refused:
        ray.RayCluster(RunOptions(processes=8), 1)
    assert "8 GPU" in str(refused.value)


def test_a_trial_on_a_cluster_has_one_process_unless_more_are_given():
    settings = Settings(engine="ray", address="auto", gpus=1.0)
    assert replicas.check([RECIPE.replace(replica_processes=4)], settings)
    assert replicas.devices([RECIPE], settings, "cuda", 4) == ()
    assert replicas.placed(RECIPE, settings).replica_processes == 1
    given = RECIPE.replace(replica_processes=4)
    assert replicas.placed(given, settings) == given
    assert replicas.placed(RECIPE, Settings()) is RECIPE
    assert replicas.placed(Recipe(), settings).replica_processes is None
    with pytest.raises(UsageError, match="one process"):
        replicas.check([RECIPE.replace(fast_sum=True)], settings)


def test_parts_of_one_row_are_refused_before_a_study(bars, settings):
    spec = SPEC.replace(architecture="resnet18", source="random", input_size=32, batch_size=2)
    with pytest.raises(TlxError) as refused:
        fine_tuning_study(spec.replace(dataset=str(bars)), DRAWS, settings)
    assert "--batch-size 4, or more" in str(refused.value)
