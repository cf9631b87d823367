"""The mirror on a local store: each trial once, everything in it, whatever was killed, lost,
deleted or sent twice.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import threading
import time

import pytest
from lab import tracked
from lab.tracked import EPOCHS, STUDY, Lab, by_key, client_of, content, runs_of

from tlx import files
from tlx.errors import BadDataError, Stopped, TrialsFailedError, UntrackedError
from tlx.lab.tracking import api as tracking_api
from tlx.result import Result


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path / "root")


def mirror(lab, target, **more):
    return tracking_api.Mirror(
        target, lab.root, lab.study, environ=more.pop("environ", {}), wake_s=0.05, **more
    )


def shown(lab, target, number):
    return by_key(target)[lab.keys[number]]


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    return found


# ---------------------------------------------------------------- what is shown


@pytest.mark.slow
def test_a_study_is_a_parent_and_its_children_with_everything_in_them(lab, local):
    lab.finish()
    report = mirror(lab, local).start().stop()
    assert (report.unsent, report.problem) == (0, "")
    found = content(local)
    assert set(found) == {STUDY, *lab.keys}
    parent, child = found[STUDY], found[lab.keys[1]]
    assert {row["status"] for row in found.values()} == {"FINISHED"}
    assert child["tags"]["mlflow.parentRunId"] == STUDY
    assert (parent["name"], child["name"]) == ("digits", "1-shot split 1")
    assert child["params"]["Architecture"] == "mnist-cnn"
    assert child["params"]["cfg.split"] == "1"
    assert parent["params"]["cfg.optimizer.momentum"] == "0.9"
    assert len(child["params"]["Note"]) == 6000
    assert [(step, value) for step, _, value in child["history"]["train_loss"]] == [
        (e, 1 / (e + 1)) for e in range(EPOCHS)
    ]
    assert [(step, value) for step, _, value in child["history"]["system/cpu"]] == [
        (0, 50.0),
        (1, 51.0),
    ]
    assert child["history"]["test_accuracy"][0][2] == 0.6
    assert child["history"]["cost.wall_s"][0][2] == 2.0
    assert "cost.energy_j" not in child["history"], "what is not known is not shown as a number"
    assert child["tags"]["tlx.status"] == "finished"
    assert child["tags"]["env.python"] == "3.11"
    assert (
        child["tags"]["mlflow.source.git.commit"]
        == parent["tags"]["mlflow.source.git.commit"]
        == "c0ffee"
    )
    assert child["tags"]["owner"] == "me"
    assert child["artifacts"] == ["config.json", "confusion.png", "result.json"]
    assert parent["artifacts"] == ["config.json", "curve.png", "study.json", "summary.json"]
    assert [(step, value) for step, _, value in parent["history"]["Test accuracy mean"]] == [
        (1, 0.1),
        (5, 0.5),
        (10, 1.0),
    ]
    name, digest, source, tags = child["inputs"][0]
    assert (name, digest, source) == ("digits", "d" * 36, '{"uri": "/data/digits"}')
    assert ("mlflow.data.context", "train") in tags
    assert ("tlx.digest", "d" * 64) in tags


def test_artifacts_lie_beside_the_database(lab, local):
    lab.finish()
    mirror(lab, local).start().stop()
    assert list((local.database.parent / "mlruns" / "fine-tuning").rglob("confusion.png"))


def test_times_are_the_journals_not_the_senders(lab, local):
    lab.finish()
    journal = files.Journal.read(lab.store.folder(lab.keys[0]) / "metrics.journal")
    time.sleep(0.1)
    mirror(lab, local).start().stop()
    info = shown(lab, local, 0).info
    assert (info.start_time, info.end_time) == (journal[0]["ts"], max(r["ts"] for r in journal))


def test_metrics_may_be_shown_under_other_names(tmp_path, local):
    lab = Lab(
        tmp_path / "named",
        1,
        metric_names={"train_loss": "Train loss", "test_accuracy": ["Test accuracy", 100]},
    )
    lab.finish()
    mirror(lab, local).start().stop()
    metrics = shown(lab, local, 0).data.metrics
    assert metrics["Test accuracy"] == pytest.approx(50)
    assert "Train loss" in metrics
    assert "train_loss" not in metrics


def is_line(history):
    """Whether MLflow's pages draw a metric of a run as a line: its newest point is at step 1 or
    later.
    """
    return max(history)[0] >= 1


def test_final_numbers_are_bars_and_only_what_has_steps_is_a_line(lab, local):
    lab.finish()
    lab.store.unseal_study(STUDY)
    files.write_json(
        lab.root / "studies" / STUDY / "summary.json",
        {
            "metrics": [
                {"name": "curve", "value": 0.1, "step": 1},
                {"name": "curve", "value": 0.2, "step": 5},
                {"name": "alone", "value": 0.3, "step": 10},
            ]
        },
    )
    lab.store.seal_study(STUDY)
    mirror(lab, local).start().stop()
    found = content(local)
    for key in lab.keys:
        history = found[key]["history"]
        assert {name for name, points in history.items() if is_line(points)} == {
            "train_loss",
            "val_accuracy",
            "system/cpu",
        }
        for name in ("test_accuracy", "cost.wall_s"):
            assert [step for step, _, _ in history[name]] == [0], name
    history = found[STUDY]["history"]
    assert [(step, value) for step, _, value in history["curve"]] == [(1, 0.1), (5, 0.2)]
    assert [(step, value) for step, _, value in history["alone"]] == [(0, 0.3)]


@pytest.mark.parametrize("shown", [{}, {"val_accuracy": "Accuracy"}])
def test_a_series_and_a_final_number_never_share_a_name(tmp_path, local, shown):
    lab = Lab(tmp_path / "named", 1, metric_names=shown)
    with lab.store.claim(lab.keys[0]) as draft:
        for epoch in range(3):
            draft.log(epoch, {"val_accuracy": epoch / 10})
        draft.commit(
            Result(
                key=lab.keys[0],
                kind="fine-tuning",
                status="finished",
                spec={},
                scores={"val_accuracy": 0.7, "score": 0.8, "test_accuracy": 0.9},
            )
        )
    mirror(lab, local).start().stop()
    history = content(local)[lab.keys[0]]["history"]
    series = [name for name, points in history.items() if len(points) > 1]
    assert series == [shown.get("val_accuracy", "val_accuracy")]
    assert [value for _, _, value in history[series[0]]] == [0.0, 0.1, 0.2]
    finals = {name: points for name, points in history.items() if name not in series}
    assert sorted(value for points in finals.values() for _, _, value in points) == [0.7, 0.8, 0.9]
    assert {step for points in finals.values() for step, _, _ in points} == {0}


def test_curves_are_live(lab, local):
    follower = mirror(lab, local).start()
    lab.run(0, epochs=2, whole=False)
    run = wait_for(
        lambda: (
            (found := runs_of(local)[1])
            and [
                r
                for r in found
                if r.data.tags["tlx.key"] == lab.keys[0] and "train_loss" in r.data.metrics
            ]
        )
    )[0]
    assert run.info.status == "RUNNING"
    lab.finish()
    follower.stop()
    assert len(client_of(local).get_metric_history(run.info.run_id, "train_loss")) == EPOCHS


def test_a_diverged_trial_failed_and_says_so(lab, local):
    with lab.store.claim(lab.keys[0]) as draft:
        draft.log(0, {"train_loss": float("nan")})
    lab.run(0, epochs=1, status="diverged")
    mirror(lab, local).start().stop()
    run = shown(lab, local, 0)
    assert (run.info.status, run.data.tags["tlx.status"]) == ("FAILED", "diverged")
    assert run.data.metrics["train_loss"] != run.data.metrics["train_loss"]


def test_a_failed_trial_gives_its_reason(lab, local):
    lab.run(0, epochs=1, whole=False)
    follower = mirror(lab, local).start()
    follower.failed(lab.keys[0], "out of memory at http://bob:s3cr3t@host")
    follower.stop(tracking_api.FAILED)
    run = shown(lab, local, 0)
    assert (run.info.status, run.data.tags["tlx.status"]) == ("FAILED", "failed")
    assert run.data.tags["tlx.error"] == "out of memory at http://***@host"
    assert by_key(local)[STUDY].info.status == "FAILED"
    before = content(local)
    assert tracking_api.sync(lab.root, local).unsent == 0
    assert content(local) == before, "sync knows no reasons, so it leaves what is said"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (Stopped(2), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (TrialsFailedError("x", "y"), "FAILED"),
        (RuntimeError(), "FAILED"),
    ],
)
def test_the_end_of_the_block_is_the_end_of_the_study(lab, local, error, status):
    lab.run(0)
    with contextlib.suppress(BaseException), mirror(lab, local):
        if error is not None:
            raise error
    assert by_key(local)[STUDY].info.status == status


# ---------------------------------------------------------------- again


def test_sending_again_changes_nothing(lab, local):
    lab.finish()
    mirror(lab, local).start().stop()
    before = content(local)
    mirror(lab, local).start().stop()
    assert tracking_api.sync(lab.root, local).unsent == 0
    assert content(local) == before


def test_a_lost_cursor_means_sending_all_again_to_the_same_end(lab, local):
    lab.finish()
    mirror(lab, local).start().stop()
    before = content(local)
    for cursor in (lab.root / "tracking").rglob("*.json"):
        cursor.write_text("{ torn")
    assert tracking_api.sync(lab.root, local).unsent == 0
    assert content(local) == before


def test_an_interrupted_study_continues_in_the_same_runs(lab, local):
    lab.run(0)
    lab.run(1, epochs=2, whole=False)
    mirror(lab, local).start().stop(tracking_api.KILLED)
    first = by_key(local)
    assert first[lab.keys[1]].info.status == "KILLED"
    assert first[STUDY].info.status == "KILLED"
    lab.finish()
    mirror(lab, local).start().stop()
    second = by_key(local)
    assert {k: r.info.run_id for k, r in first.items()}.items() <= {
        k: r.info.run_id for k, r in second.items()
    }.items()
    assert {r.info.status for r in second.values()} == {"FINISHED"}
    assert content(local)[lab.keys[1]]["tags"]["tlx.status"] == "finished"
    history = client_of(local).get_metric_history(second[lab.keys[1]].info.run_id, "train_loss")
    assert sorted(m.step for m in history) == list(range(EPOCHS))


@pytest.mark.crash
def test_a_mirror_killed_between_any_two_calls_ends_the_same(lab, local, tmp_path, empty_database):
    """The mirror dies after n calls, for every seventh n; then the command runs again."""
    lab.finish()
    mirror(lab, local).start().stop()
    expected = content(local)
    reached = False
    for calls in range(0, 400, 7):
        folder = tmp_path / f"killed-{calls}"
        folder.mkdir()
        shutil.copy(empty_database, folder / "mlflow.db")
        target = tracking_api.resolve(str(folder), {})
        left = iter(range(calls))
        carrier = tracking_api.StudySync(
            target, lab.store, STUDY, None, lambda left=left: next(left, None) is None
        )
        reached = carrier.sweep("FINISHED")
        carrier.close()
        assert tracking_api.sync(lab.root, target).unsent == 0
        assert content(target) == expected, calls
        if reached:
            break
    assert reached
    assert calls > 40


def test_duplicates_are_reconciled_to_the_first_made(lab, local):
    client = client_of(local)
    experiment = client.create_experiment("Fine-tuning")
    lab.finish()
    start = files.Journal.read(lab.store.folder(lab.keys[0]) / "metrics.journal")[0]["ts"]
    made = [
        client.create_run(
            experiment, start_time=start + late, tags={"tlx.key": lab.keys[0]}
        ).info.run_id
        for late in (5, 0, 9)
    ]
    mirror(lab, local).start().stop()
    assert shown(lab, local, 0).info.run_id == made[1]
    for other in (made[0], made[2]):
        run = client.get_run(other)
        assert run.info.lifecycle_stage == "deleted"
        assert run.data.tags["tlx.duplicate_of"] == made[1]


def test_a_trial_thrown_away_and_made_again_has_one_run_with_one_history(lab, local):
    lab.run(0, epochs=3, whole=False)
    mirror(lab, local).start().stop(tracking_api.KILLED)
    old = shown(lab, local, 0).info.run_id
    lab.store.remove(lab.keys[0])
    time.sleep(0.01)
    lab.finish()
    mirror(lab, local).start().stop()
    run = shown(lab, local, 0)
    assert run.info.run_id != old
    assert len(client_of(local).get_metric_history(run.info.run_id, "train_loss")) == EPOCHS
    assert client_of(local).get_run(old).info.lifecycle_stage == "deleted"


def test_a_finished_run_made_elsewhere_is_shown_as_it_is(lab, tmp_path, local):
    lab.finish()
    mirror(lab, local).start().stop()
    before = content(local)
    time.sleep(0.01)
    other = Lab(tmp_path / "other machine")
    other.finish()
    mirror(other, local).start().stop()
    after = content(local)
    for key in lab.keys:
        assert after[key]["history"] == before[key]["history"]


def test_a_trial_of_two_studies_is_one_run_under_the_newer(lab, local):
    lab.finish()
    mirror(lab, local).start().stop()
    wider = Lab(lab.root, 4, study="6" * 64)
    wider.run(3)
    wider.summarise()
    mirror(wider, local).start().stop()
    found = content(local)
    assert {found[k]["tags"]["mlflow.parentRunId"] for k in wider.keys} == {"6" * 64}
    assert set(found) == {STUDY, "6" * 64, *wider.keys}


def test_a_run_that_a_person_deleted_is_made_again(lab, local):
    lab.finish()
    mirror(lab, local).start().stop()
    before = content(local)
    client_of(local).delete_run(shown(lab, local, 1).info.run_id)
    assert tracking_api.sync(lab.root, local).unsent == 0
    assert content(local) == before


def test_a_deleted_experiment_comes_back(lab, local):
    lab.finish()
    mirror(lab, local).start().stop()
    before = content(local)
    client = client_of(local)
    client.delete_experiment(client.get_experiment_by_name("Fine-tuning").experiment_id)
    assert tracking_api.sync(lab.root, local).unsent == 0
    assert content(local) == before


def test_moved_data_does_not_change_a_parameter(lab, local):
    """The same trial with its data in another place: the first value stays, and nothing stops."""
    lab.finish()
    mirror(lab, local).start().stop()
    study = lab.store.read_study(STUDY)
    study["trials"][0]["params"]["Architecture"] = "/moved/elsewhere"
    lab.store.write_study(STUDY, study)
    for cursor in (lab.root / "tracking").rglob("*.json"):
        cursor.unlink()
    assert mirror(lab, local).start().stop().problem == ""
    assert shown(lab, local, 0).data.params["Architecture"] == "mnist-cnn"


# ---------------------------------------------------------------- a store in trouble


def test_a_database_deleted_during_the_study_is_made_and_filled_again(lab, local, tmp_path):
    follower = mirror(lab, local).start()
    lab.run(0)
    wait_for(lambda: lab.keys[0] in by_key(local))
    local.database.unlink()
    lab.finish()
    report = follower.stop()
    assert (report.unsent, report.problem) == (0, "")
    assert set(content(tracking_api.resolve(str(local.database), {}))) == {STUDY, *lab.keys}


@pytest.mark.slow
def test_a_locked_database_costs_the_deadline_and_no_record(lab, local):
    lab.finish()
    follower = mirror(lab, local)
    with sqlite3.connect(local.database, isolation_level=None) as holder:
        holder.execute("begin exclusive")
        follower.start()
        begun = time.monotonic()
        report = follower.stop(deadline_s=0.5)
        assert time.monotonic() - begun < 30
        assert report.unsent == len(lab.keys) * (EPOCHS + 4) + 1
        assert "tlx sync" in str(report)
        holder.execute("rollback")
    holder.close()
    follower._thread.join(30)
    assert tracking_api.sync(lab.root, local) == tracking_api.Sent(len(lab.keys) * (EPOCHS + 4), 0)
    assert {r["status"] for r in content(local).values()} == {"FINISHED"}


def test_a_broken_database_is_said_at_once(lab, local):
    local.database.write_bytes(b"not a database" * 1000)
    os.utime(local.database, (1e9, 1e9))
    with pytest.raises(BadDataError, match="is no sqlite database"):
        mirror(lab, local).start()


def test_a_damaged_folder_does_not_stop_the_others(lab, local):
    lab.finish()
    (lab.store.folder(lab.keys[1]) / "result.json").write_bytes(b"{}")
    report = mirror(lab, local).start().stop()
    assert "result.json" in report.problem
    found = by_key(local)
    assert {lab.keys[0], lab.keys[2]} <= set(found)
    with pytest.raises(UntrackedError) as error:
        report.require()
    assert error.value.exit_code == 6


def means_of(target):
    """Step → all values that the parent run has there."""
    client, parent = client_of(target), by_key(target)[STUDY]
    found = {}
    for point in client.get_metric_history(parent.info.run_id, "Test accuracy mean"):
        found.setdefault(point.step, []).append(point.value)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "means",
    [
        {1: 0.2, 5: 0.6, 10: 0.9},  # more trials: other means
        {1: 0.1, 5: 0.5, 10: 1.0, 20: 1.0},  # more shots: one step more
        {1: 0.1, 5: 0.5},  # a trial was removed, or failed: no mean there
        {1: 0.1, 5: 0.5, 10: 1.0},  # as before
    ],
    ids=["changed", "added", "lost", "same"],
)
@pytest.mark.parametrize("how", ["mirror", "sync", "sync without cursors"])
def test_a_study_that_grows_has_each_mean_once(lab, local, means, how):
    lab.finish()
    mirror(lab, local).start().stop()
    client_of(local).set_tag(
        by_key(local)[STUDY].info.run_id, "mlflow.note.content", "what I make of it"
    )
    wider = Lab(lab.root, 4)
    wider.run(3)
    wider.summarise(means)
    if how == "mirror":
        mirror(wider, local).start().stop()
    else:
        for cursor in (lab.root / "tracking").rglob("*.json") if "without" in how else ():
            cursor.unlink()
        assert tracking_api.sync(lab.root, local).unsent == 0
    assert means_of(local) == {step: [value] for step, value in means.items()}
    found = by_key(local)
    assert set(found) == {STUDY, *wider.keys}
    parent = found[STUDY]
    assert {found[key].data.tags["mlflow.parentRunId"] for key in wider.keys} == {
        parent.info.run_id
    }
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert parent.data.tags["mlflow.note.content"] == "what I make of it"
    before = content(local)
    assert tracking_api.sync(lab.root, local).unsent == 0
    assert content(local) == before


def log_by_hand(target, tmp_path):
    """Log metrics, a parameter, tags and artifacts on the parent run as a person would."""
    client, parent = client_of(target), by_key(target)[STUDY].info.run_id
    for step in range(3):
        client.log_metric(parent, "my score", step / 2, timestamp=1_000 + step, step=step)
    client.log_metric(parent, "my number", 7.0, timestamp=5)
    client.log_param(parent, "my choice", "the second one")
    client.set_tag(parent, "reviewed by", "me")
    client.set_tag(parent, "mlflow.note.content", "what I make of it")
    (tmp_path / "mine.txt").write_text("a thought")
    client.log_artifact(parent, str(tmp_path / "mine.txt"))
    client.log_artifact(parent, str(tmp_path / "mine.txt"), "deep/inside")


def held_by_hand(target):
    """Everything of `log_by_hand` that the parent run has."""
    client, parent = client_of(target), by_key(target)[STUDY]
    history = {
        name: sorted(
            (m.step, m.timestamp, m.value)
            for m in client.get_metric_history(parent.info.run_id, name)
        )
        for name in ("my score", "my number")
    }
    texts = []
    for path in ("mine.txt", "deep/inside/mine.txt"):
        with open(client.download_artifacts(parent.info.run_id, path)) as file:
            texts.append(file.read())
    return (
        history,
        parent.data.params["my choice"],
        parent.data.tags["reviewed by"],
        parent.data.tags["mlflow.note.content"],
        texts,
    )


BY_HAND = (
    {"my score": [(0, 1_000, 0.0), (1, 1_001, 0.5), (2, 1_002, 1.0)], "my number": [(0, 5, 7.0)]},
    "the second one",
    "me",
    "what I make of it",
    ["a thought"] * 2,
)


def test_what_a_person_logged_on_a_parent_run_stays_when_the_study_grows(lab, local, tmp_path):
    lab.finish()
    mirror(lab, local).start().stop()
    log_by_hand(local, tmp_path)
    before = by_key(local)[STUDY].info.run_id
    for means in (
        {1: 0.2, 5: 0.6},
        {1: 0.3, 5: 0.6, 10: 0.7},
    ):  # it is carried over again from where it was carried to
        lab.summarise(means)
        assert tracking_api.sync(lab.root, local).unsent == 0
        assert means_of(local) == {step: [value] for step, value in means.items()}
        assert held_by_hand(local) == BY_HAND
        assert by_key(local)[STUDY].info.run_id != before
        before = by_key(local)[STUDY].info.run_id


def test_a_metric_that_a_person_logged_is_no_reason_for_another_parent_run(lab, local, tmp_path):
    lab.finish()
    mirror(lab, local).start().stop()
    log_by_hand(local, tmp_path)
    before = by_key(local)[STUDY].info.run_id
    lab.summarise({1: 0.1, 5: 0.5, 10: 1.0, 20: 1.0})
    assert tracking_api.sync(lab.root, local).unsent == 0
    assert means_of(local) == {1: [0.1], 5: [0.5], 10: [1.0], 20: [1.0]}
    assert by_key(local)[STUDY].info.run_id == before


def test_a_mean_that_is_no_more_is_not_taken_for_a_persons(lab, local):
    lab.finish()
    mirror(lab, local).start().stop()
    folder = lab.root / "studies" / STUDY
    lab.store.unseal_study(STUDY)
    files.write_json(folder / "summary.json", {"metrics": {"Another mean": 0.5}})
    (folder / "curve.png").rename(folder / "line.png")
    lab.store.seal_study(STUDY)
    assert tracking_api.sync(lab.root, local).unsent == 0
    parent = content(local)[STUDY]
    assert set(parent["history"]) == {"Another mean"}
    assert parent["artifacts"] == ["config.json", "line.png", "study.json", "summary.json"]


def test_a_new_parent_that_is_cut_off_between_any_two_calls_ends_the_same(lab, local, tmp_path):
    """The calls that take the place of a parent run fail one after the other; each time `sync` goes
    on.
    """
    lab.finish()
    mirror(lab, local).start().stop()
    log_by_hand(local, tmp_path)
    lab.summarise({1: 0.3, 5: 0.7})

    for number in range(80):
        calls = itertools.count()

        def leave_off(calls=calls, number=number):
            return next(calls) >= number

        carrier = tracking_api.StudySync(local, lab.store, STUDY, None, leave_off)
        with contextlib.closing(carrier):
            if carrier.sweep(tracking_api.FINISHED):
                break
    assert 5 < number < 79
    assert means_of(local) == {1: [0.3], 5: [0.7]}
    assert held_by_hand(local) == BY_HAND
    found = by_key(local)
    assert {found[key].data.tags["mlflow.parentRunId"] for key in lab.keys} == {
        found[STUDY].info.run_id
    }


def flip(path, at=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["summary.json", "curve.png", "MANIFEST.json", "study.json"])
def test_a_flipped_bit_in_a_study_is_named_and_not_sent(lab, local, name):
    lab.finish()
    other = Lab(lab.root, 1, study="6" * 64)
    other.summarise()
    flip(lab.root / "studies" / STUDY / name)
    report = tracking_api.sync(lab.root, local)
    assert [
        (fault.exit_code, name in str(fault) or name == "MANIFEST.json") for fault in report.faults
    ] == [(9, True)]
    assert "6" * 64 in by_key(local), "the others are sent"
    found = by_key(local).get(STUDY)
    assert found is None or not found.data.metrics


@pytest.mark.parametrize(
    "name", ["result.json", "metrics.journal", "confusion.png", "MANIFEST.json"]
)
def test_a_flipped_bit_in_a_trial_is_named_by_sync(lab, local, name):
    lab.finish()
    flip(lab.store.folder(lab.keys[1]) / name)
    report = tracking_api.sync(lab.root, local)
    (fault,) = report.faults
    assert fault.exit_code == 9
    assert lab.keys[1] in str(fault)
    assert {lab.keys[0], lab.keys[2]} <= set(by_key(local)), "the others are sent"


def plant_unlisted(folder, secret):
    (folder / "notes.txt").write_text("somebody's own")


def plant_link(folder, secret):
    (folder / "notes.txt").symlink_to(secret)


def plant_linked_folder(folder, secret):
    (folder / "more").symlink_to(secret.parent)


def plant_in_place_of_a_listed_file(folder, secret):
    listed = next(path for path in folder.iterdir() if path.suffix == ".png")
    (secret.parent / "same.png").write_bytes(listed.read_bytes())
    listed.unlink()
    listed.symlink_to(secret.parent / "same.png")


@pytest.mark.slow
@pytest.mark.parametrize(
    "plant", [plant_unlisted, plant_link, plant_linked_folder, plant_in_place_of_a_listed_file]
)
@pytest.mark.parametrize("where", ["trial", "study"])
def test_nothing_is_sent_of_a_folder_that_holds_what_tlx_did_not_write(
    lab, local, tmp_path, plant, where
):
    secret = tmp_path / "home" / "secret.txt"
    secret.parent.mkdir()
    secret.write_text("s3cr3t")
    lab.finish()
    plant(
        lab.store.folder(lab.keys[1]) if where == "trial" else lab.store.study_folder(STUDY), secret
    )
    (fault,) = tracking_api.sync(lab.root, local).faults
    assert fault.exit_code == 4
    sent = [path for path in (local.database.parent / "mlruns").rglob("*") if path.is_file()]
    assert not [path for path in sent if path.name in ("notes.txt", "secret.txt", "same.png")]
    assert not [path for path in sent if b"s3cr3t" in path.read_bytes()]


def test_two_mirrors_of_one_study_do_not_meet(lab, local):
    lab.finish()
    pair = [mirror(lab, local).start() for _ in range(2)]
    reports = [m.stop() for m in pair]
    assert min(r.unsent for r in reports) == 0
    assert {r["status"] for r in content(local).values()} == {"FINISHED"}


def test_two_studies_that_share_trials_are_mirrored_at_once(lab, local):
    other = Lab(lab.root, 3, study="6" * 64)
    lab.finish()
    pair = [mirror(lab, local).start(), mirror(other, local).start()]
    threads = [threading.Thread(target=m.stop) for m in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracking_api.sync(lab.root, local)
    assert set(by_key(local)) == {STUDY, "6" * 64, *lab.keys}


def test_a_study_that_has_no_trials_yet_has_a_parent(lab, local):
    assert mirror(lab, local).start().stop(tracking_api.KILLED).unsent == 0
    assert set(by_key(local)) == {STUDY}


def test_sync_of_a_killed_study_leaves_nothing_running(lab, local):
    lab.run(0)
    lab.run(1, epochs=2, whole=False)
    assert tracking_api.sync(lab.root, local).unsent == 0
    assert {k: r.info.status for k, r in by_key(local).items()} == {
        STUDY: "KILLED",
        lab.keys[0]: "FINISHED",
        lab.keys[1]: "KILLED",
    }


def test_an_old_summary_does_not_finish_a_study_that_was_continued_and_killed(lab, local):
    lab.finish()
    mirror(lab, local).start().stop()
    wider = Lab(lab.root, 4)  # the same study, one trial more
    wider.run(3, epochs=2, whole=False)
    for cursor in (lab.root / "tracking").rglob(f"{STUDY}.json"):
        cursor.unlink()
    tracking_api.sync(lab.root, local)
    assert by_key(local)[STUDY].info.status == "KILLED"


def test_sync_without_a_study_sends_nothing(tmp_path, local):
    assert tracking_api.sync(tmp_path / "nothing", local) == tracking_api.Sent(0, 0)


def test_names_and_values_that_a_store_refuses_are_made_fit(tmp_path, local):
    lab = Lab(tmp_path / "odd", 1, tags={"key=odd?": "x" * 9000, "none": None})
    with lab.store.claim(lab.keys[0]) as draft:
        draft.log(0, {"loss (train)": 1.0, "../up": 2.0, "a//b": 3.0, "ok/name": 4.0})
    lab.run(0, epochs=0)
    assert mirror(lab, local).start().stop().problem == ""
    run = shown(lab, local, 0)
    assert {"loss _train_", "_up", "a__b", "ok/name"} <= set(run.data.metrics)
    assert len(run.data.tags["key_odd_"]) == 5000
    assert "none" not in run.data.tags


def test_more_of_everything_than_one_call_may_carry(tmp_path, local):
    many = {f"x{i}": i for i in range(250)}
    lab = Lab(tmp_path / "many", 1, spec=many, tags=many)
    with lab.store.claim(lab.keys[0]) as draft:
        for epoch in range(3):
            draft.log(epoch, {f"m{i}": i for i in range(700)})
    lab.run(0, epochs=0)
    assert mirror(lab, local).start().stop() == tracking_api.Sent(5, 0)
    parent, run = by_key(local)[STUDY], shown(lab, local, 0)
    assert len(parent.data.params) == 250
    assert len(run.data.metrics) == 702
    assert len(client_of(local).get_metric_history(run.info.run_id, "m699")) == 3


# ---------------------------------------------------------------- `mlflow run`


def launched(target, *, experiment="0", params=None, **tags):
    """The run that `mlflow run` makes, and the environment it gives its child."""
    client = client_of(target)
    marks = {"mlflow.project.entryPoint": "fine_tuning", "mlflow.source.name": "/project", **tags}
    run = client.create_run(experiment, tags=marks)
    for name, value in (params or {"splits": "5"}).items():
        client.log_param(run.info.run_id, name, value)
    return run.info.run_id, {
        "MLFLOW_RUN_ID": run.info.run_id,
        "MLFLOW_EXPERIMENT_ID": experiment,
        "MLFLOW_TRACKING_URI": target.uri,
    }


def test_the_run_of_mlflow_run_is_marked_as_launcher_and_given_no_metrics(lab, local):
    run_id, environ = launched(local)
    lab.finish()
    assert mirror(lab, local, environ=environ).start().stop().problem == ""
    run = client_of(local).get_run(run_id)
    parent = by_key(local)[STUDY]
    assert (run.data.tags["tlx.role"], run.data.tags["tlx.study"]) == (
        "launcher",
        parent.info.run_id,
    )
    assert "digits" in run.data.tags["mlflow.note.content"]
    assert (run.data.metrics, run.data.params) == ({}, {"splits": "5"})
    assert run.info.status == "RUNNING", "mlflow run ends it itself"
    assert len(by_key(local)) == 1 + len(lab.keys)


def test_an_experiment_chosen_for_mlflow_run_takes_the_study_and_sync_finds_it(lab, local):
    chosen = client_of(local).create_experiment("My own")
    _, environ = launched(local, experiment=chosen)
    lab.run(0)
    mirror(lab, local, environ=environ).start().stop(tracking_api.KILLED)
    assert STUDY in {r.data.tags.get("tlx.key") for r in runs_of(local, "My own")[1]}
    lab.finish()
    assert tracking_api.sync(lab.root, local).unsent == 0
    assert client_of(local).get_experiment_by_name("Fine-tuning") is None
    keys = [r.data.tags["tlx.key"] for r in runs_of(local, "My own")[1] if "tlx.key" in r.data.tags]
    assert sorted(keys) == sorted([STUDY, *lab.keys])


def test_launchers_that_were_killed_are_closed_and_others_left(lab, local):
    lab.finish()
    early, _ = launched(local)  # killed before it could be marked
    _, environ = launched(local)
    mirror(lab, local, environ=environ).start().stop()
    first = environ["MLFLOW_RUN_ID"]
    client = client_of(local)
    assert client.get_run(early).info.status == "KILLED"
    client.set_tag(first, "tlx.process", "elsewhere:1:1")  # it has died since
    stranger, _ = launched(local, params={"splits": "7"})
    last, environ = launched(local)
    mirror(lab, local, environ=environ).start().stop()
    states = {run: client.get_run(run).info.status for run in (first, stranger, last)}
    assert states == {first: "KILLED", stranger: "RUNNING", last: "RUNNING"}


def test_a_launcher_that_lives_is_left(lab, local):
    lab.finish()
    run_id, environ = launched(local)
    mirror(lab, local, environ=environ).start().stop()  # marked with this very process
    mirror(lab, local).start().stop()
    assert client_of(local).get_run(run_id).info.status == "RUNNING"


def test_a_launcher_that_is_not_there_stops_nothing(lab, local):
    lab.finish()
    environ = {"MLFLOW_RUN_ID": "0" * 32, "MLFLOW_TRACKING_URI": local.uri}
    report = mirror(lab, local, environ=environ).start().stop()
    assert report.unsent == 0
    assert {r["status"] for r in content(local).values()} == {"FINISHED"}


def test_a_study_sent_elsewhere_than_mlflow_runs_own_store(lab, local, tmp_path, empty_database):
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(empty_database, tmp_path / "elsewhere" / "mlflow.db")
    other = tracking_api.resolve(str(tmp_path / "elsewhere"), {})
    run_id, environ = launched(other)
    lab.finish()
    mirror(lab, local, environ=environ).start().stop()
    assert (
        client_of(other).get_run(run_id).data.tags["tlx.study"] == by_key(local)[STUDY].info.run_id
    )


def test_content_compares_what_it_should(lab, local):
    """The yardstick itself can fail."""
    lab.finish()
    mirror(lab, local).start().stop()
    before = content(local)
    client_of(local).log_metric(shown(lab, local, 0).info.run_id, "train_loss", 1.0, step=0)
    assert content(local) != before
    assert tracked.plain(before)


# ---------------------------------------------------------------- descriptions


def describe(lab, note):
    folder = lab.root / "studies" / lab.study
    summary = files.read_json(folder / "summary.json")
    files.write_json(folder / "summary.json", summary | {"note": note})
    lab.store.seal_study(lab.study)


def note_of(target):
    return by_key(target)[STUDY].data.tags.get("mlflow.note.content")


@pytest.mark.slow
@pytest.mark.parametrize("edited", [None, "my own words", ""])
def test_a_description_is_brought_up_to_date_unless_a_person_changed_it(lab, local, edited):
    lab.finish()
    describe(lab, "first")
    tracking_api.sync(lab.root, local)
    assert note_of(local) == "first"
    if edited is not None:
        client_of(local).set_tag(by_key(local)[STUDY].info.run_id, "mlflow.note.content", edited)
    describe(lab, "second")
    shutil.rmtree(lab.root / "tracking")
    tracking_api.sync(lab.root, local)
    assert note_of(local) == ("second" if edited is None else edited)


def test_an_experiment_is_described_once_and_shown_as_trainings(lab, local):
    lab.finish()
    tracking_api.sync(lab.root, local)
    client, runs = runs_of(local)
    experiment = client.get_experiment(runs[0].info.experiment_id)
    assert "tlx sync" in experiment.tags["mlflow.note.content"]
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", "mine")
    shutil.rmtree(lab.root / "tracking")
    tracking_api.sync(lab.root, local)
    assert client.get_experiment(experiment.experiment_id).tags["mlflow.note.content"] == "mine"


def test_the_address_of_a_local_store_opens_the_run_of_the_study(lab, local):
    lab.finish()
    with mirror(lab, local) as follower:
        pass
    run = by_key(local)[STUDY]
    page = f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert follower.address.endswith(page)
    assert "mlflow ui" in follower.address
