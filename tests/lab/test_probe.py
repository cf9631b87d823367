"""What a node must share with the driver is looked at before it takes a trial, and named."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from lab import clusters, driver

from tlx.errors import BadDataError, MissingError, ResourceError, TlxError, UsageError
from tlx.lab import environment
from tlx.lab.engines import CLUSTERS, ENGINES, probe
from tlx.lab.store import Store
from tlx.lab.tasks import ClusterOptions, Note, RunOptions

OTHER_CPU = {"ATEN_CPU_CAPABILITY": "default"}


@pytest.fixture
def check(tmp_path):
    """A driver's check of two folders, and its files in them."""
    check = probe.check_of((str(tmp_path / "store"), str(tmp_path / "cache")), mixed=False)
    with probe.marked(check):
        yield check


# ---------------------------------------------------------------- a node as it sees itself


def test_this_machine_is_as_this_machine(check):
    node = probe.describe(check)
    assert (node.cpu, node.differences) == (environment.cpu_kind(), ())
    assert (node.unseen, node.unwritable, node.unsafe) == ((), (), ())
    probe.raise_faults({"here": node})
    assert probe.refusal(check) == ""


def test_nothing_of_a_probe_stays(check, tmp_path):
    probe.describe(check)
    assert [p.name for p in (tmp_path / "store").iterdir()] == [f"{probe.PREFIX}{check.token}"]
    with probe.marked(probe.check_of(check.folders, mixed=True)):
        assert len([*(tmp_path / "store").iterdir()]) == 2
    assert len([*(tmp_path / "store").iterdir()]) == 1


def test_what_a_killed_driver_left_is_removed_later(check, tmp_path):
    left = tmp_path / "store" / f"{probe.PREFIX}killed"
    left.write_text("")
    os.utime(left, (time.time() - 2 * probe.OLD_S,) * 2)
    with probe.marked(probe.check_of(check.folders, mixed=True)):
        assert not left.exists()


@pytest.mark.parametrize("package", ["torch", "tlx", "numpy"])
def test_another_version_is_named_with_node_package_and_both_versions(check, package):
    versions = {**check.versions, package: "0.0.1"}
    node = probe.describe(replace(check, versions=versions))
    with pytest.raises(BadDataError) as caught:
        probe.raise_faults({"node-7": node})
    message = str(caught.value)
    assert all(word in message for word in ("node-7", package, "0.0.1"))
    assert environment.versions()[package] in message


def test_a_package_that_a_node_lacks_is_named(check):
    node = probe.describe(replace(check, versions={**check.versions, "timm-fork": "1.0"}))
    with pytest.raises(BadDataError, match=r"timm-fork none where this machine has 1\.0"):
        probe.raise_faults({"node": node})


def test_another_commit_is_named(check):
    if not check.commit:
        pytest.skip("not in a checkout")
    node = probe.describe(replace(check, commit="abc"))
    with pytest.raises(BadDataError, match=r"tlx of commit .* where this machine has abc"):
        probe.raise_faults({"node": node})


def test_a_folder_that_a_node_does_not_see_is_named(check, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "SIGHT_S", 0.0)
    (tmp_path / "own").mkdir()  # of that path on another disk
    node = probe.describe(replace(check, folders=(str(tmp_path / "own"), str(tmp_path / "none"))))
    assert node.unseen == (str(tmp_path / "own"), str(tmp_path / "none"))
    with pytest.raises(MissingError, match=r"node-3.*--store and --cache") as caught:
        probe.raise_faults({"node-3": node})
    assert caught.value.where == str(tmp_path / "own")


def test_a_folder_that_a_node_cannot_write_to_is_named(check, tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def refuse(path, *args, **options):
        if path.parent.name == "cache":
            raise PermissionError(13, "Permission denied")
        mkdir(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    node = probe.describe(check)
    with pytest.raises(ResourceError, match="node-3 cannot write") as caught:
        probe.raise_faults({"node-3": node})
    assert caught.value.where == str(tmp_path / "cache")


def test_a_rename_that_replaces_a_full_folder_is_named(check, monkeypatch):
    monkeypatch.setattr(os, "rename", lambda source, target: None)
    with pytest.raises(ResourceError, match="a rename replaces") as caught:
        probe.raise_faults({"node-3": probe.describe(check)})
    assert caught.value.exit_code == 5


# ---------------------------------------------------------------- real nodes


@pytest.fixture
def cluster(tmp_path):
    cluster = clusters.DaskCluster(tmp_path / "cluster")
    yield cluster
    cluster.close()


def run(cluster, root, notes, *, mixed=False, tasks=4):
    options = ClusterOptions(address=cluster.address, mixed=mixed, folders=(str(root),))
    return ENGINES["dask"](
        driver.tasks(root, tasks, 3, 0.02, "trial_with_pid"),
        workers=tasks,
        on_event=lambda event: isinstance(event, Note) and notes.append(event.text),
        options=RunOptions(cluster=options),
    )


def test_a_node_with_another_version_is_refused_before_anything_is_run(cluster, tmp_path):
    other = tmp_path / "packages" / "torch-1.2.3.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.2.3\n")
    cluster.add_node()
    cluster.add_node(PYTHONPATH=f"{other.parent}:{clusters.TESTS}:{clusters.TESTS.parent}")
    with pytest.raises(BadDataError, match=r"torch 1\.2\.3 where this machine has"):
        run(cluster, tmp_path / "runs", [])
    assert Store(tmp_path / "runs").keys() == []


def test_a_node_without_tlx_is_one_sentence(cluster, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['tlx'] = None")
    cluster.add_node(PYTHONPATH=str(tmp_path))
    with pytest.raises(ResourceError, match=r"cannot run tlx .*install the same tlx there"):
        run(cluster, tmp_path / "runs", [])


def test_a_node_of_another_kind_of_cpu_is_left_unused_unless_it_is_asked_for(cluster, tmp_path):
    notes: list[str] = []
    cluster.add_node()
    other = cluster.add_node(**OTHER_CPU)
    outcomes = run(cluster, tmp_path / "runs", notes)
    assert [outcome.error for outcome in outcomes] == [None] * 4
    (note,) = notes
    assert "another kind" in note
    assert "--mixed-nodes" in note
    cluster.nodes[0].kill()
    with pytest.raises(ResourceError, match="--mixed-nodes"):
        run(cluster, tmp_path / "more", [])
    assert other.process.poll() is None
    assert [o.error for o in run(cluster, tmp_path / "more", [], mixed=True)] == [None] * 4


def test_a_late_node_of_another_kind_refuses_and_is_left_unused(cluster, tmp_path):
    notes: list[str] = []
    cluster.add_node()
    root, joined = tmp_path / "runs", []

    def on_event(event):
        if isinstance(event, Note):
            notes.append(event.text)
        elif not joined:
            joined.append(cluster.add_node(**OTHER_CPU))

    outcomes = ENGINES["dask"](
        driver.tasks(root, 8, 10, 0.05, "trial_with_pid"),
        workers=8,
        on_event=on_event,
        options=RunOptions(cluster=ClusterOptions(address=cluster.address, folders=(str(root),))),
    )
    assert [(outcome.error, outcome.attempts) for outcome in outcomes] == [(None, 1)] * 8
    assert len(notes) == 1
    assert "its CPU is of another kind" in notes[0]


# ---------------------------------------------------------------- no cluster


@pytest.mark.parametrize("engine", CLUSTERS)
def test_a_cluster_that_does_not_answer_is_one_sentence(engine, monkeypatch):
    if engine == "dask":
        from tlx.lab.engines import dask

        monkeypatch.setattr(dask, "CONNECT_S", 1.0)
    address = f"127.0.0.1:{clusters.free_port()}"
    with pytest.raises(ResourceError, match=f"no {engine.title()} cluster answers at") as caught:
        ENGINES[engine](
            driver.tasks("nowhere", 1, 1, 0),
            workers=1,
            on_event=print,
            options=RunOptions(cluster=ClusterOptions(address=address)),
        )
    assert (caught.value.code, caught.value.exit_code) == ("no-cluster", 5)


@pytest.mark.parametrize(
    ("engine", "address"),
    [("dask", "tcp://"), ("dask", "nonsense://x"), ("ray", "ray://head:10001"), ("ray", "a b")],
)
def test_an_address_that_cannot_be_one_is_refused(engine, address):
    with pytest.raises(TlxError) as caught:
        ENGINES[engine](
            driver.tasks("nowhere", 1, 1, 0),
            workers=1,
            on_event=print,
            options=RunOptions(cluster=ClusterOptions(address=address)),
        )
    assert caught.value.exit_code in (UsageError.exit_code, ResourceError.exit_code)
    assert caught.value.code != "bug"
