"""Plans of trials whose batches are cut into parts: by arithmetic on what is measured."""

from __future__ import annotations

import math
import socket
import threading

import numpy as np
import pytest
import torch

import tlx as package
from tlx.lab.settings import Settings
from tlx.lab.store import Store
from tlx.models import backbones
from tlx.models.recipe import Recipe
from tlx.studies import estimate, parted_speed, schedule
from tlx.studies.estimate import PROCESS_BYTES, RowCounts, Speed
from tlx.studies.parted_speed import PartedCost, Sharing

START_S = schedule.OVERHEADS["local"].start_s  # of the processes of a trial too
QUICK = {"tracking": False, "use_crops": False, "val_per_class": 2}
ROW_S, SUMS_S = 1.0, 0.25


@pytest.fixture
def here(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TLX_CACHE", str(cache))
    return tmp_path


@pytest.fixture
def measured(monkeypatch):
    """A row takes a second forward and back, a sum a quarter of one, a byte a microsecond."""
    monkeypatch.setattr(estimate, "seconds_a_row", lambda *_: (ROW_S, 0.0))
    monkeypatch.setattr(parted_speed, "least_seconds", lambda step: SUMS_S)
    monkeypatch.setattr(parted_speed, "socket_seconds_a_byte", lambda: 1e-6)


def on_slots(monkeypatch, slots):
    monkeypatch.setattr(Settings, "local_slots", slots)


# ---------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("cores", [1, 2, 4, 64])
def test_the_rows_of_a_step_divide_by_the_processes_that_have_cores_and_its_sums_by_none(
    processes, cores
):
    side_by_side = min(processes, cores)
    cost = PartedCost(Sharing(4, processes, side_by_side), 2.0, 3.0 * (processes > 1))
    # every process adds up for itself: so many turns where they share cores
    sums = np.full(processes, 2.0).sum() / side_by_side
    expected = 100.0 / side_by_side + 7 * (sums + (3.0 if processes > 1 else 0.0))
    if processes > 1:
        expected += START_S
    assert cost.seconds(100.0, 7) == pytest.approx(expected)


def test_one_process_of_a_core_takes_the_rows_as_whole_batches_do_and_the_sums():
    speed = Speed(1.0, 0.5, 0, 0, PartedCost(Sharing(8, 1, 1), 0.1, 0.0))
    whole = Speed(1.0, 0.5, 0, 0)
    rows = RowCounts(160, 40, 10)
    assert whole.seconds(rows) == 160 + 20
    assert speed.seconds(rows) == pytest.approx(whole.seconds(rows) + 10 * 0.1)


@pytest.mark.parametrize(("parts", "processes"), [(1, 1), (4, 1), (4, 2), (4, 4), (8, 2)])
def test_the_memory_of_all_processes_is_counted_with_one_part_of_a_batch_in_each(parts, processes):
    numbers, row_bytes, batch = 1000, 100, 32
    cost = PartedCost(Sharing(parts, processes, processes), 0.0, 0.0) if parts > 1 else None
    own = PROCESS_BYTES + 4 * 5 * numbers + 3 * math.ceil(batch / parts) * row_bytes
    if parts > 1:
        vectors = 2 + len(bin(parts // processes)[2:])  # gradients, one vector, the tree
        received = processes if processes > 1 else 0
        own += 4 * numbers * (vectors + received)
    assert Speed(1.0, 1.0, row_bytes, numbers, cost).memory_bytes(batch) == processes * own


def test_how_batches_are_shared_is_as_the_trial_will_share_them(monkeypatch):
    on_slots(monkeypatch, 2)
    whole, parts = Recipe(), Recipe(replicas=4, batch_size=16)
    both = parts.replace(replica_processes=4)
    settings = Settings(tracking=False)
    assert Sharing.of(whole, settings) == Sharing(1, 1, 1)
    assert Sharing.of(parts, settings) == Sharing(4, 1, 1)
    assert Sharing.of(both, settings) == Sharing(4, 4, 2)
    cluster = settings.replace(engine="ray", address="auto")
    assert Sharing.of(both, cluster) == Sharing(4, 4, 4), "a node has cores for all of them"
    assert Sharing.of(object(), settings) == Sharing()
    assert estimate.measured_rows(parts) == 4
    assert estimate.measured_rows(whole.replace(batch_size=128)) == estimate.MOST_ROWS


# ---------------------------------------------------------------- measured


def test_a_byte_takes_what_the_clock_says_of_all_that_are_sent():
    ticks = iter([10.0, 14.0])
    threads = threading.active_count()
    assert parted_speed.socket_seconds_a_byte(1 << 16, lambda: next(ticks)) == 4.0 / (1 << 16)
    assert threading.active_count() == threads


def test_a_measured_sum_leaves_the_network_as_it_was():
    network = backbones.load("resnet20-cifar", weights=None, classes=3, seed=0).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    recipe = Recipe(replicas=4, replica_processes=2, batch_size=8)
    cost = parted_speed.cost_of(network, Sharing(4, 2, 2), recipe, 1)
    assert cost.sums_s > 0
    assert cost.exchange_s > 0
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert parted_speed.cost_of(network, Sharing(4, 1, 1), recipe, 1).exchange_s == 0
    assert parted_speed.cost_of(network, Sharing(), recipe, 1) is None


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_what_is_measured_adds_up_the_parts_of_one_process_and_the_vectors_of_all(
    monkeypatch, processes
):
    from tlx.models import replicas

    added = []
    real = replicas.TreeSum.add
    monkeypatch.setattr(
        replicas.TreeSum, "add", lambda self, vector: added.append(1) or real(self, vector)
    )
    network = backbones.load("mnist-cnn", weights=None, classes=3, seed=0)
    recipe = Recipe(replicas=4, replica_processes=processes, batch_size=8)
    parted_speed._rowless_step(network, Sharing(4, processes, processes), recipe)()
    assert len(added) == 4 // processes + (processes if processes > 1 else 0)


def test_the_socket_is_of_this_machine_alone(monkeypatch):
    real, addresses = socket.create_server, []
    monkeypatch.setattr(
        socket, "create_server", lambda address: addresses.append(address) or real(address)
    )
    assert parted_speed.socket_seconds_a_byte(1 << 10) > 0
    assert addresses == [("127.0.0.1", 0)]


# ---------------------------------------------------------------- plans


def sizes_of(bars, here, **settings):
    """The plan of a fine-tuning of two draws of 3 and 6 rows, two epochs, batches of 4."""
    return package.plan(
        "fine-tuning",
        dataset=bars,
        shots=(1, 2),
        splits=1,
        epochs=2,
        batch_size=4,
        **QUICK,
        **settings,
    )


STEPS = (2 * 1, 2 * 2)  # of two epochs of 3 and of 6 rows, four at a time
ROWS = (2 * 3, 2 * 6)


def numbers_of(architecture="mnist-cnn"):
    network = backbones.load(architecture, weights=None, classes=2, seed=0)
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("slots", "processes"), [(1, 1), (4, 1), (4, 2), (2, 2), (1, 2), (4, 4)])
def test_the_time_of_a_plan_is_that_of_its_steps_on_the_cores(
    here, bars, measured, monkeypatch, slots, processes
):
    on_slots(monkeypatch, slots)
    plan = sizes_of(bars, here, replicas=4, replica_processes=processes)
    sent_s = 4 * numbers_of() * (processes - 1) * 1e-6
    shared = min(slots, processes)
    tasks = [
        rows * ROW_S / shared + steps * (SUMS_S * processes / shared + sent_s)
        for rows, steps in zip(ROWS, STEPS, strict=True)
    ]
    if processes > 1:
        tasks = [START_S + task for task in tasks]
    free = [START_S] * max(1, min(slots // processes, 2))
    for task in tasks:
        earliest = int(np.argmin(free))
        free[earliest] += task + schedule.OVERHEADS["local"].task_s
    assert plan.at_once == len(free)
    assert plan.seconds == pytest.approx(max(free))


def test_more_trials_at_once_than_cores_for_their_processes_take_turns(
    here, bars, measured, monkeypatch
):
    on_slots(monkeypatch, 2)
    together = sizes_of(bars, here, replicas=2, replica_processes=2, workers=2)
    in_turn = sizes_of(bars, here, replicas=2, replica_processes=2, workers=1)
    assert (together.at_once, in_turn.at_once) == (2, 1)
    assert together.seconds == in_turn.seconds
    assert together.memory_bytes == 2 * in_turn.memory_bytes
    assert in_turn.memory_bytes > 2 * PROCESS_BYTES
    assert {row.slots for row in together.engines if row.engine == "local"} == {1}


def test_the_notes_say_how_the_time_was_taken(here, bars, measured, monkeypatch):
    on_slots(monkeypatch, 2)
    plan = sizes_of(bars, here, replicas=4, replica_processes=4)
    (note,) = [note for note in plan.notes if "as timed here" in note]
    assert note.startswith("a step is 1 part of 1 row and its sum, as timed here in one process")
    assert f"the exchange of {12 * numbers_of() / 1e6:.1f} MB a step" in note
    assert "there are cores for 2 processes at once" in note
    one = sizes_of(bars, here, replicas=4)
    (note,) = [note for note in one.notes if "as timed here" in note]
    assert note.startswith("a step is 4 parts of 1 row and their sum")
    assert "exchange" not in note
    assert not [note for note in sizes_of(bars, here).notes if "as timed" in note]


@pytest.mark.slow
def test_a_finished_trial_corrects_the_plan_by_the_processes_that_it_had(
    here, bars, measured, monkeypatch
):
    """Trials of one process are found; the plan is of two."""
    on_slots(monkeypatch, 2)
    settings = {"dataset": bars, "shots": (1, 2), "splits": 2, "epochs": 2, "batch_size": 4}
    settings |= QUICK | {"replicas": 2}
    package.run("fine-tuning", progress=False, figures="none", workers=0, **settings)
    find = Store.find_or_none

    def found(store, key, **options):
        result = find(store, key, **options)
        rows = 2 * 3 * result.spec["shots"]
        steps = 2 * math.ceil(3 * result.spec["shots"] / 4)
        result.cost["wall_s"]["value"] = 0.5 * (rows * ROW_S + steps * SUMS_S)
        return result

    monkeypatch.setattr(Store, "find_or_none", found)
    plan = package.plan("fine-tuning", **{**settings, "splits": 3, "replica_processes": 2})
    assert plan.error.trials == 4
    assert plan.error.median == pytest.approx(0.5)


def test_the_check_of_a_study_counts_its_processes(tlx, bars, measured, monkeypatch):
    on_slots(monkeypatch, 2)
    words = ["check", "--dataset", bars, "--shots", "1,2", "--splits", "1", "--epochs", "2"]
    words += ["--no-use-crops", "--val-per-class", "2", "--batch-size", "4", "--replicas", "2"]
    seen = []
    real = schedule.by_engine
    monkeypatch.setattr(
        schedule, "by_engine", lambda seconds, slots: seen.append(slots) or real(seconds, slots)
    )
    for processes in (1, 2):
        code, _, complaint = tlx(*words, "--replica-processes", processes)
        assert code == 0, complaint
    assert seen == [2, 1], "slots of this machine"
