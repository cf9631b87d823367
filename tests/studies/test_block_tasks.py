"""Metrics over blocks whose pieces other processes compute: the bits of one process."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field, is_dataclass

import hypothesis
import numpy as np
import pytest
from features.extracting import HOW, LAYERS, Pictures, network
from hypothesis import strategies

from tlx import metrics
from tlx.errors import BadDataError, UnknownNameError, UsageError
from tlx.features import cuts
from tlx.features.extract import ExtractionContext, extract
from tlx.lab.settings import Settings
from tlx.metrics.blocks import neighbours, over, pieces, rows
from tlx.metrics.blocks.pieces import PieceTask
from tlx.metrics.blocks.tree import JoinTree
from tlx.studies import block_tasks, runner
from tlx.studies.layer_metrics import plan as layer_metrics_plan
from tlx.studies.layer_metrics import trial as layer_metrics_trial
from tlx.studies.layer_metrics.spec import LayerMetrics, Observed

N, D, E = 90, 12, 5
LABELS = np.array([["b", "a", "c"][i % 7 % 3] for i in range(N)])


@pytest.fixture(scope="module")
def files_of(tmp_path_factory):
    """Two layers of the same images, as files."""
    folder, draw = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    x = draw.standard_normal((N, 4)) @ draw.standard_normal((4, D))
    x += 0.4 * draw.standard_normal((N, D)) + 3.0 * (LABELS == "a")[:, None]
    x[5], x[41] = x[N - 3], x[8]  # equal rows, in other blocks
    y = x @ draw.standard_normal((D, E)) + draw.standard_normal((N, E))
    np.save(folder / "x.npy", x.astype(np.float32))
    np.save(folder / "y.npy", y.astype(np.float16))
    return str(folder / "x.npy"), str(folder / "y.npy")


def given(metric, y):
    needs = over.METRICS[metric].needs
    return {"labels": LABELS} if needs == "labels" else {"y": y} if needs == "y" else {}


CASES = [
    *((metric, {}) for metric in over.METRICS),
    ("sum_of_squares", {"means": True}),
    ("intrinsic_dimension", {"sample": 30, "seed": 3}),
    ("intrinsic_dimension", {"method": "mle:k=5"}),
    ("cka", {"unbiased": False}),
]


@dataclass
class Sent:
    """A runner whose tasks see what is left of them in another process: what pickles."""

    workers: int = 2
    threads: int = 1
    tasks: list[PieceTask] = field(default_factory=list)

    def __call__(self, tasks):
        self.tasks += tasks
        results = {}
        for number in reversed(range(len(tasks))):  # they end in any order
            task = pickle.loads(pickle.dumps(tasks[number]))
            try:
                results[number] = pickle.loads(pickle.dumps(task.function(*task.args)))
            except BadDataError as error:
                results[number] = error
        for number in range(len(tasks)):
            if isinstance(results[number], BadDataError):
                raise results[number]
        return [results[number] for number in range(len(tasks))]


@pytest.fixture
def tiny_tasks(monkeypatch):
    """Tasks of a piece or two: of rows as few as these one task would be enough."""
    monkeypatch.setattr(pieces, "LEAST_S", 1e-9)
    monkeypatch.setattr(neighbours, "LEAST_BLOCK", 8)


def bits(value):
    """All that a result holds, arrays and numbers as their bytes."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, tuple):
        return [bits(part) for part in value]
    if is_dataclass(value):
        return {name: bits(part) for name, part in vars(value).items()}
    return value.hex() if isinstance(value, float) else value


def same(value, other):
    return bits(value) == bits(other)


@pytest.mark.parametrize("block_rows", [1, 7, 44, 10 * N])
@pytest.mark.parametrize(("metric", "settings"), CASES)
def test_pieces_of_other_processes_give_the_bits_of_one(
    files_of, tiny_tasks, metric, settings, block_rows
):
    if block_rows == 1 and metric in ("class_contrast", "compare_rdms"):
        block_rows = 5  # thousands of pairs
    x, y = files_of
    how = {**given(metric, y), **settings, "block_rows": block_rows}
    here, run = metrics.over(x, metric, **how), Sent()
    there = metrics.over(x, metric, **how, engine=run)
    assert same(there, here)
    assert run.tasks
    if here.blocks > 3:
        assert len({task.title for task in run.tasks}) > 1


@pytest.mark.parametrize(("metric", "settings"), CASES)
def test_few_rows_are_not_worth_other_processes(files_of, metric, settings):
    x, y = files_of
    how, run = {**given(metric, y), **settings, "block_rows": 10}, Sent(workers=8)
    assert same(metrics.over(x, metric, **how, engine=run), metrics.over(x, metric, **how))
    assert run.tasks == []


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("k", [1, 3])
def test_neighbours_of_tasks_are_those_of_one_search_with_ties(files_of, tiny_tasks, workers, k):
    source = rows.BlockRows(files_of[0])
    here = neighbours.BlockedNeighbours(source, k, source.ranges(33)).nearest(k, ties=True)
    run = Sent(workers)
    search = neighbours.BlockedNeighbours(source, k, source.ranges(33), run=run)
    values, indices = search.nearest(k, ties=True)
    assert values.tobytes() == here[0].tobytes()
    assert indices.tobytes() == here[1].tobytes()
    sample = np.array([3, 5, 41, 88])
    assert same(search.nearest_of(sample, k), (here[0][sample], here[1][sample]))


# ---------------------------------------------------------------- how many go together


@hypothesis.given(
    parts=strategies.integers(1, 200),
    part_s=strategies.floats(0.001, 100),
    workers=strategies.integers(1, 50),
)
def test_a_task_takes_seconds_and_is_a_branch_of_the_tree(parts, part_s, workers):
    size = pieces.together(parts, part_s, workers)
    assert size & (size - 1) == 0
    assert size * part_s >= pieces.LEAST_S or size >= parts
    if size > 1:  # half of it would be too small
        assert size // 2 * part_s < pieces.task_seconds(parts * part_s, 2 * workers)
    one = JoinTree(parts, lambda a, b: f"({a}{b})")
    for number in range(parts):
        one.add(number, f"{number}.")
    run = InOrder(workers)
    text = pieces.joined("text", named, ("{}.",), range(parts), in_brackets, run=run, part_s=part_s)
    assert text == one.result
    assert bool(run.tasks) == (parts * part_s >= pieces.LEAST_S)


class InOrder(Sent):
    def __call__(self, tasks):
        self.tasks += tasks
        return [task.function(*task.args) for task in tasks]


def named(form, number):
    return form.format(number)


def in_brackets(a, b):
    return f"({a}{b})"


@hypothesis.given(total_s=strategies.floats(0.01, 1e6), workers=strategies.integers(1, 300))
def test_equal_tasks_are_as_long_as_they_must_be_and_no_worker_waits_alone(total_s, workers):
    count = pieces.task_count(total_s, workers)
    assert count == 1 or total_s / count >= pieces.LEAST_S
    assert count < workers or count % workers == 0
    if total_s >= workers * pieces.LEAST_S:
        assert count >= workers
        assert total_s / count <= 2 * pieces.MOST_S


@hypothesis.given(
    blocks=strategies.integers(1, 9),
    last=strategies.integers(1, 10),
    tasks=strategies.integers(1, 12),
)
def test_pairs_are_shared_evenly_each_once(blocks, last, tasks):
    ranges = [range(10 * i, 10 * i + (last if i == blocks - 1 else 10)) for i in range(blocks)]
    pairs = neighbours._pairs(ranges)
    shares = neighbours.evenly_shared(pairs, tasks)
    assert sorted(map(str, (pair for share in shares for pair in share))) == sorted(map(str, pairs))
    work = [sum(map(neighbours._pairs_of_rows, share)) for share in shares]
    assert max(work) - min(work) <= 100  # one pair


# ---------------------------------------------------------------- engines


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    """A dump in shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "SHARD_BYTES", 1 << 20)
        place = ExtractionContext(tmp_path_factory.mktemp("dumps"), labels=list(LABELS))
        return extract(network(), "random", Pictures(N), LAYERS, place, HOW)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["sum_of_squares", "intrinsic_dimension"])
def test_processes_of_this_machine_give_the_bits_of_one(dump, tiny_tasks, metric):
    how = {"block_rows": 20}
    here = metrics.over(dump, metric, layer="relu2", threads=1, **how)
    there = metrics.over(dump, metric, layer="relu2", engine="local", workers=2, **how)
    assert same(there, here)
    assert math.isfinite(float(getattr(there.value, "ratio", 0.0)))


@pytest.mark.e2e
def test_nodes_of_a_cluster_give_the_bits_of_one_machine(dump, files_of, tiny_tasks, cluster):
    x, y = files_of
    where = {"engine": cluster.engine, "address": cluster.address}
    for metric, settings in [("cka", {}), ("intrinsic_dimension", {"sample": 30})]:
        how = given(metric, y) | settings | {"block_rows": 40}
        assert same(metrics.over(x, metric, **how, **where), metrics.over(x, metric, **how))
    how = {"layer": "fc1", "block_rows": 40}
    here = metrics.over(dump, "sum_of_squares", **how)
    assert same(metrics.over(dump, "sum_of_squares", **how, **where), here)
    bad = np.load(x)
    bad[47, 2] = np.nan
    with pytest.raises(BadDataError, match="row 47, column 2"):
        metrics.over(bad, "sum_of_squares", LABELS, block_rows=40, **where)


# ---------------------------------------------------------------- tlx analyze

MEASURES = LayerMetrics(resamplings=2, block_rows=12)


def analysed(bars, cache, folder, **where):
    """The values of every layer, and the notes, of an analysis in blocks of 12 rows."""
    settings = Settings(
        store=str(folder), cache=str(cache), tracking=False, system_metrics=False, **where
    )
    observed = Observed(dataset=str(bars), samples=24, layers=("fc1",))
    stage = layer_metrics_plan.plan_layer_metrics(["mnist"], observed, MEASURES, settings)
    report = runner.run_stage(stage, settings, lambda event: None, lambda store, key: None)
    report.raise_if_failed(require_tracking=False)
    (result,) = report.results
    rows = [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in result.details["rows"]
    ]
    return stage, rows, result.details["notes"]


@pytest.fixture
def counted_pieces(monkeypatch):
    """The titles of the tasks that an engine is given."""
    titles, real = [], block_tasks.EnginePieces.__call__

    def call(self, tasks):
        titles.extend(task.title for task in tasks)
        return real(self, tasks)

    monkeypatch.setattr(block_tasks.EnginePieces, "__call__", call)
    return titles


def check_analysis(bars, cache, tmp_path, counted_pieces, **where):
    plain, rows_here, notes_here = analysed(bars, cache, tmp_path / "here", workers=0)
    assert not plain.runs_here
    assert counted_pieces == []
    stage, rows_there, notes_there = analysed(bars, cache, tmp_path / "there", **where)
    assert stage.runs_here
    assert rows_there == rows_here
    assert notes_there == notes_here
    kinds = {title.split(",")[0] for title in counted_pieces}
    assert {"sums of squares", "pairs of blocks", "largest numbers"} <= kinds


@pytest.mark.slow
def test_an_analysis_has_its_blocks_measured_by_processes(
    bars, cache, tmp_path, tiny_tasks, counted_pieces
):
    check_analysis(bars, cache, tmp_path, counted_pieces, workers=2)


@pytest.mark.e2e
def test_an_analysis_has_its_blocks_measured_by_nodes(
    bars, cache, tmp_path, tiny_tasks, counted_pieces, cluster
):
    where = {"engine": cluster.engine, "address": cluster.address}
    check_analysis(bars, cache, tmp_path, counted_pieces, **where)


def test_the_progress_within_a_layer_only_rises_and_never_ends_it():
    told = []
    progress = layer_metrics_trial.PieceProgress(lambda done, of: told.append(done / of))
    for many in (2, 1, 5, 3):
        for done in range(1, many + 1):
            progress(done, many)
    assert told == sorted(set(told))
    assert told[:2] == [0.25, 0.5]
    assert told[-1] < 1


def test_networks_whose_layers_are_in_one_piece_are_trials_as_before(bars, cache, tmp_path):
    settings = Settings(store=str(tmp_path), cache=str(cache), tracking=False, workers=2)
    observed = Observed(dataset=str(bars), samples=24, layers=("fc1",))
    plan = layer_metrics_plan.plan_layer_metrics
    assert not plan(["mnist"], observed, LayerMetrics(), settings).runs_here
    assert plan(["mnist"], observed, MEASURES, settings).runs_here
    alone = settings.replace(workers=1)
    assert not plan(["mnist"], observed, MEASURES, alone).runs_here


PRELOADED = """
import os, threading
import tlx.studies.block_tasks, tlx.metrics.blocks.over
before = threading.active_count(), len(os.listdir("/proc/self/task"))
import tlx.metrics.blocks.preloaded
print(before == (threading.active_count(), len(os.listdir("/proc/self/task"))))
"""


@pytest.mark.slow
def test_what_workers_are_forked_with_has_started_no_thread():
    """A forked process has the thread that forked it alone: others would be missed there."""
    done = subprocess.run(
        [sys.executable, "-c", PRELOADED],
        env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "True", done.stdout + done.stderr
    assert "tlx.metrics.blocks.preloaded" in block_tasks.PRELOAD


# ---------------------------------------------------------------- what is wrong is said


@pytest.mark.parametrize("metric", over.METRICS)
def test_the_first_row_that_is_not_finite_is_named_as_in_one_process(files_of, tiny_tasks, metric):
    bad = np.load(files_of[0])
    bad[63, 3] = bad[47, 2] = np.inf
    how = given(metric, files_of[1]) | {"block_rows": 10}
    for engine in (None, Sent()):
        with pytest.raises(BadDataError, match="in row 47, column 2"):
            metrics.over(bad, metric, engine=engine, **how)


def test_a_large_array_in_memory_is_not_sent_to_each_task(files_of, monkeypatch):
    x, y = files_of
    monkeypatch.setattr(pieces, "SENT_BYTES", N * E * 2)
    in_memory = np.load(x)
    with pytest.raises(UsageError, match=r"numpy\.save"):
        metrics.over(in_memory, "sum_of_squares", LABELS, engine=Sent())
    with pytest.raises(UsageError, match=r"numpy\.save"):
        metrics.over(x, "cka", y=in_memory, engine=Sent())
    metrics.over(x, "cka", y=np.load(y), engine=Sent())
    metrics.over(in_memory, "sum_of_squares", LABELS)


def test_engines_and_what_they_need_are_said(files_of):
    x, _ = files_of
    with pytest.raises(UnknownNameError, match="dask"):
        metrics.over(x, "intrinsic_dimension", engine="spark")
    with pytest.raises(UsageError, match="--address"):
        metrics.over(x, "intrinsic_dimension", engine="dask")
    with pytest.raises(UsageError, match="at least 1"):
        metrics.over(x, "intrinsic_dimension", engine="local", workers=0)
    for alone in ({"address": "host:1"}, {"workers": 3}):
        with pytest.raises(UsageError, match="without engine"):
            metrics.over(x, "intrinsic_dimension", **alone)


def test_a_file_that_a_node_does_not_see_is_said(tmp_path):
    def read():
        return open(tmp_path / "x.npy")

    with pytest.raises(BadDataError, match=r"x\.npy") as caught:
        block_tasks.compute(read, (), emit=lambda report: None)
    assert "every node" in str(caught.value)
