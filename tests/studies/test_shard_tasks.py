"""Shards of a dump, made by processes of this machine and by nodes of a cluster: the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tlx import files
from tlx.errors import BadDataError, ErrorGroup, ResourceError, TlxError
from tlx.features import cuts
from tlx.features.cuts import RowCuts
from tlx.features.dump import Dump, ExtractionConfig
from tlx.features.dumps import Dumps
from tlx.features.shard_parts import ShardOrder
from tlx.lab.engines import probe
from tlx.lab.settings import Settings
from tlx.lab.tasks import Finished, Outcome, Progress, Started
from tlx.studies import activations, shard_tasks
from tlx.studies.activations_spec import Extraction

TESTS = Path(__file__).resolve().parents[1]
LAYERS = ("conv1", "fc1")
SHARD_BYTES = 64 * 32 * 26 * 26 * 4  # one batch of conv1, the widest: 600 rows are ten shards
ROWS = 600


def spec_of(bars, **changes):
    return Extraction(
        dataset=str(bars),
        architecture="mnist-cnn",
        source="random",
        layers=LAYERS,
        reduce="flat",
        use_crops=True,
        **changes,
    )


def settings_of(folder, **changes):
    return Settings(store=str(folder), cache=str(folder), tracking=False, **changes)


@pytest.fixture(scope="module")
def whole(bars, tmp_path_factory):
    """The dump in one piece, made by this process."""
    return activations.extraction(spec_of(bars), settings_of(tmp_path_factory.mktemp("whole")))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch, whole):  # after the dump in one piece
    monkeypatch.setattr(cuts, "SHARD_BYTES", SHARD_BYTES)


def check_same(dump, whole):
    """A dump in ten shards has the bytes of the one in one piece."""
    assert dump.key == whole.key
    for layer in LAYERS:
        paths = sorted(dump.folder.glob(f"{layer}.*.npy"))
        assert len(paths) == 10
        parts = [np.load(path) for path in paths]
        assert np.concatenate(parts).tobytes() == np.load(whole.folder / f"{layer}.npy").tobytes()
    dump.verify()
    assert (dump.ids, dump.labels) == (whole.ids, whole.labels)
    assert not list(dump.folder.parent.glob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("budget", [8.0, 0.0], ids=["stored pixels", "streamed pixels"])
def test_processes_of_this_machine_make_the_bytes_of_one(bars, tmp_path, whole, budget):
    notes, seen = [], []
    dump = activations.extraction(
        spec_of(bars),
        settings_of(tmp_path, workers=2, decode_budget=budget),
        lambda done, of: seen.append((done, of)),
        notes,
    )
    check_same(dump, whole)
    done = [done for done, of in seen if of == ROWS]
    assert done[-1] == ROWS
    assert dump.own_s > 0
    (record,) = dump.passes
    assert (record["threads"], record["device"]) == (1, "cpu")
    assert record["used"]["cpu_s"] > 0
    found = activations.extraction(spec_of(bars), settings_of(tmp_path, workers=2))
    assert found.own_s == 0


def test_one_shard_is_not_worth_a_process_of_this_machine(bars, tmp_path, whole, monkeypatch):
    monkeypatch.setattr(cuts, "SHARD_BYTES", 64 << 20)
    monkeypatch.setitem(shard_tasks.ENGINES, "local", None)
    dump = activations.extraction(spec_of(bars), settings_of(tmp_path, workers=2))
    assert dump.header["format"] == 1
    assert np.array_equal(dump.matrix(), whole.matrix())


# ---------------------------------------------------------------- damaged


def words_of(bars):
    words = ["--dataset", bars, "--architecture", "mnist-cnn", "--source", "random"]
    return [*words, "--layers", ",".join(LAYERS), "--reduce", "flat", "--use-crops"]


def flip(path):
    """Change a bit of a file; return the bytes it had."""
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
    return data


def test_the_command_makes_a_damaged_shard_anew_and_an_analysis_of_it_says_what_to_type(
    tlx, bars, tmp_path, whole, monkeypatch
):
    monkeypatch.setattr(
        sys, "argv", ["tlx", "extract", "--dataset", "bars here", "--layers", "fc1"]
    )
    extract = ["extract", *words_of(bars), "--cache", tmp_path]
    assert tlx(*extract)[0] == 0
    folder = tmp_path / "dumps" / whole.key
    path = folder / "fc1.00003.npy"
    data = flip(path)
    # what takes a dump by its key reads it alone
    measure = ["--cache", tmp_path, "--store", tmp_path / "runs", "--no-tracking", "--workers", "0"]
    for more in ([], ["--block-rows", "200"]):
        code, _, complaint = tlx("analyze", whole.key[:12], *measure, "--resamplings", "2", *more)
        assert code != 0
        assert str(path) in complaint, complaint
        assert (
            "run: tlx extract --dataset 'bars here' --layers fc1 (it makes this file alone"
            in complaint
        )
    code, _, complaint = tlx("dumps", "verify", "--cache", tmp_path)
    assert code == 9
    assert "run: tlx extract --dataset 'bars here'" in complaint
    code, printed, complaint = tlx(*extract)
    assert code == 0, complaint
    (note,) = [line for line in printed.splitlines() if "made anew" in line]
    assert note.startswith(f"note: {path}: its bytes do not match")
    assert path.read_bytes() == data
    check_same(Dump(folder), whole)


@pytest.mark.slow
def test_a_process_makes_a_damaged_shard_anew(bars, tmp_path, whole):
    dump = activations.extraction(spec_of(bars), settings_of(tmp_path))
    dump.close()
    inodes = {path.name: path.stat().st_ino for path in dump.folder.glob("*.npy")}
    damaged = [dump.folder / name for name in ("fc1.00003.npy", "conv1.00008.npy")]
    for path in damaged:
        flip(path)
    notes = []
    again = activations.extraction(spec_of(bars), settings_of(tmp_path, workers=2), None, notes)
    check_same(again, whole)
    assert len([note for note in notes if "made anew" in note]) == 1
    now = {path.name: path.stat().st_ino for path in dump.folder.glob("*.npy")}
    assert {name for name in now if now[name] != inodes[name]} == {p.name for p in damaged}


# ---------------------------------------------------------------- killed

DRIVER = textwrap.dedent(
    """
    import sys
    from tlx.features import cuts
    from tlx.studies import activations
    from studies.test_shard_tasks import SHARD_BYTES, settings_of, spec_of
    if __name__ == "__main__":
        cuts.SHARD_BYTES = SHARD_BYTES
        bars, folder, workers = sys.argv[1:]
        def tell(done, of):
            print(done, of, flush=True)
        activations.extraction(spec_of(bars), settings_of(folder, workers=int(workers)), tell)
    """
)


@pytest.mark.crash
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_extraction_makes_only_the_shards_that_are_missing(bars, tmp_path, whole, workers):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    process = subprocess.Popen(
        [sys.executable, script, bars, tmp_path, str(workers)],
        env=os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        for line in process.stdout:
            done, of = map(int, line.split())
            if of == ROWS and 250 <= done < ROWS:
                break
        process.send_signal(signal.SIGKILL)
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    (part,) = (tmp_path / "dumps").glob("*.part")
    end = time.monotonic() + 30
    while any(str(tmp_path) in words for words in _commands(script)):  # its workers end with it
        assert time.monotonic() < end
        time.sleep(0.05)
    kept = {path.name: path.stat().st_ino for path in part.glob("*.npy")}
    assert len(kept) >= 2 * len(LAYERS)
    assert len(kept) < 10 * len(LAYERS)
    seen = []  # continued by this process, whoever had made them
    dump = activations.extraction(
        spec_of(bars), settings_of(tmp_path), lambda d, of: seen.append((d, of))
    )
    check_same(dump, whole)
    whole_shards = {name for name in kept if name.startswith("fc1.")}
    for name in whole_shards:  # the last layer of a shard: all of it was whole
        assert (dump.folder / name).stat().st_ino == kept[name]
    first = next(done for done, of in seen if of == ROWS)
    assert first >= 64 * len(whole_shards)


def _commands(script):
    """The command lines of processes that belong to a driver."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(script) in words:
            yield words


# ---------------------------------------------------------------- on clusters


def on(cluster, folder, **changes):
    return settings_of(folder, engine=cluster.engine, address=cluster.address, **changes)


@pytest.mark.e2e
def test_one_shard_is_made_by_a_node_and_is_a_dump_of_format_1(
    bars, tmp_path, whole, cluster, monkeypatch
):
    cluster.restore()
    monkeypatch.setattr(cuts, "SHARD_BYTES", 64 << 20)
    dump = activations.extraction(spec_of(bars), on(cluster, tmp_path))
    assert dump.header["format"] == 1
    for layer in LAYERS:
        name = f"{layer}.npy"
        assert (dump.folder / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.e2e
def test_the_command_extracts_on_a_cluster_and_the_list_says_in_how_many_shards(
    tlx, bars, tmp_path, whole, cluster
):
    cluster.restore()
    where = ["--cache", tmp_path / "cache", "--engine", cluster.engine, "--workers", "2"]
    words = words_of(bars)
    code, printed, complaint = tlx("extract", *words, *where, "--address", cluster.address)
    assert code == 0, complaint
    assert "600 × 21632 float32" in printed
    dump = Dump(tmp_path / "cache" / "dumps" / whole.key)
    check_same(dump, whole)
    assert {record["device"] for record in dump.passes} == {"cpu"}
    dump.close()
    path = dump.folder / "fc1.00003.npy"
    data = flip(path)
    code, printed, complaint = tlx("extract", *words, *where, "--address", cluster.address)
    assert (code, printed.count("made anew in")) == (0, 1), complaint
    assert path.read_bytes() == data
    code, printed, _ = tlx("dumps", "ls", "--cache", tmp_path / "cache")
    assert "2 layers in 10 shards" in printed
    assert tlx("dumps", "verify", "--cache", tmp_path / "cache")[0] == 0
    code, _, complaint = tlx("extract", *words, *where)
    assert (code, "--address" in complaint) == (2, True)
    assert tlx("dumps", "rm", whole.key[:12], "--cache", tmp_path / "cache")[0] == 0


@pytest.mark.e2e
def test_a_folder_that_no_node_can_write_to_is_said_before_anything_is_made(
    bars, tmp_path, cluster, monkeypatch
):
    cluster.restore()
    monkeypatch.setattr(probe, "SIGHT_S", 0.0)
    folder = files.make_folder(tmp_path / "cache")
    real = shard_tasks.EngineShards._options

    def elsewhere(self, workers):
        options = real(self, workers)
        assert options.cluster.folders == (str(folder),)
        gone = replace(options.cluster, folders=("/proc/nowhere",))
        return replace(options, cluster=gone)

    monkeypatch.setattr(shard_tasks.EngineShards, "_options", elsewhere)
    with pytest.raises((TlxError, OSError)):
        activations.extraction(spec_of(bars), on(cluster, folder))
    (part,) = (folder / "dumps").glob("*.part")
    assert not list(part.glob("*.npy"))


@pytest.mark.e2e
def test_shards_of_a_node_that_is_killed_are_made_elsewhere(bars, tmp_path, whole, cluster):
    cluster.restore()
    killed = []

    def progress(done, of):
        if of == ROWS and done >= 64 and not killed:
            killed.append(done)
            cluster.nodes[0].kill()

    dump = activations.extraction(spec_of(bars), on(cluster, tmp_path), progress, [])
    assert killed
    check_same(dump, whole)


# ---------------------------------------------------------------- the task itself


def request_of(bars, tmp_path, order, pixels, **changes):
    settings = settings_of(tmp_path)
    network = activations.whole_network(spec_of(bars), LAYERS, None)
    given = {"weights": network.weights, "number": 0} | changes
    return shard_tasks.ShardRequest(
        spec=spec_of(bars), settings=settings, device="cpu", order=order, pixels=pixels, **given
    )


def test_weights_that_are_not_those_of_the_command_are_refused(bars, tmp_path):
    order = ShardOrder(tmp_path, LAYERS, RowCuts(ROWS, 64), ExtractionConfig(reduce="flat"))
    with pytest.raises(BadDataError, match="not those that the command has read"):
        shard_tasks.make(
            request_of(bars, tmp_path, order, None, weights="0" * 64), emit=lambda report: None
        )


def test_the_error_of_a_shard_says_which_and_the_others_are_kept(
    bars, tmp_path, whole, monkeypatch
):
    """The third shard's folder is refused: the others are whole, and kept."""

    def engine(tasks, *, on_event, **_):
        outcomes = []
        for task in tasks:
            (request,) = task.args
            on_event(Started(task.key, 1))
            if request.number == 2:
                error = ResourceError("memory", "no memory")
                outcomes.append(Outcome(task, error=error))
                continue
            result = shard_tasks.make(request, emit=lambda report: None)
            on_event(Progress(task.key, 1, 64, {}))
            on_event(Finished(task.key, result))
            outcomes.append(Outcome(task, result=result))
        return outcomes

    with monkeypatch.context() as patch:
        patch.setitem(shard_tasks.ENGINES, "local", engine)
        with pytest.raises((ResourceError, ErrorGroup), match="shard 2: no memory"):
            activations.extraction(spec_of(bars), settings_of(tmp_path, workers=1))
    (entry,) = Dumps(tmp_path / "dumps").entries()
    assert entry.layers == {}
    (part,) = (tmp_path / "dumps").glob("*.part")
    assert len(files.manifest(part)) == 9 * len(LAYERS)
    dump = activations.extraction(spec_of(bars), settings_of(tmp_path, workers=1))
    check_same(dump, whole)
    assert Dump(dump.folder).passes[0]["seconds"] == pytest.approx(
        dump.own_s + dump.inherited_s, abs=0.01
    )
