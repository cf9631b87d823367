"""Groups of trials as one run each: every trial once, whatever was killed, lost or sent twice."""

from __future__ import annotations

import shutil
import time
from collections import Counter

import pytest
from lab import tracked
from lab.tracked import STUDY, Lab, by_key, client_of, content

from tlx import files
from tlx.lab.tracking import api as tracking_api
from tlx.lab.tracking.client import Sender

LABELS = ("knn", "ncm:metric=cosine")


class Groups(Lab):
    """A study of `n` groups of two trials, and `alone` trials with runs of their own.

    With `steps` the trials of a group have one label, and a step each.
    """

    def __init__(self, root, n=2, alone=0, labels=LABELS, study=STUDY, *, steps=False):
        super().__init__(root, n * len(labels) + alone, study)
        record = self.store.read_study(study)
        rows = sorted(record["trials"], key=lambda row: row["key"])
        for number, row in enumerate(rows[: n * len(labels)]):
            draw, place = divmod(number, len(labels))
            row |= {"group": self.group(draw), "group_title": f"draw {draw}"}
            row |= {"label": labels[place], "spec": {"kind": "fe", "draw": draw}}
            row["params"] = {"Draw": draw, "Classifier": labels[place], "Data": "digits"}
            if steps:
                row |= {"label": "knn", "step": place}
        self.store.write_study(study, {**record, "trials": rows})

    @staticmethod
    def group(draw):
        return files.digest(["group", draw])


@pytest.fixture
def lab(tmp_path):
    return Groups(tmp_path / "root")


def sync(lab, target):
    report = tracking_api.sync(lab.root, target)
    assert (report.unsent, report.problem) == (0, "")


def carry(lab, target, ending, calls=None):
    """A mirror that ends the study; it is cut off after so many calls."""
    left = iter(range(10**9 if calls is None else calls))
    carrier = tracking_api.StudySync(
        target, lab.store, lab.study, None, lambda: next(left, None) is None
    )
    is_done = carrier.sweep(ending)
    report = carrier.report()
    carrier.close()
    return is_done, report


def failed(lab, target, reason):
    """Mirror a study whose second trial fails; return the run of its group."""
    lab.run(0)
    lab.run(1, epochs=1, whole=False)
    follower = tracking_api.Mirror(target, lab.root, STUDY, environ={}, wake_s=0.05).start()
    follower.failed(lab.keys[1], reason)
    follower.stop(tracking_api.FAILED)
    return by_key(target)[lab.group(0)]


def test_a_group_is_one_run_with_the_numbers_of_each_trial_under_its_label(lab, local):
    lab.finish()
    sync(lab, local)
    found = content(local)
    assert set(found) == {STUDY, lab.group(0), lab.group(1)}
    run = found[lab.group(1)]
    assert (run["name"], run["status"]) == ("draw 1", "FINISHED")
    assert run["tags"]["mlflow.parentRunId"] == STUDY
    assert (run["tags"]["tlx.role"], run["tags"]["tlx.study"]) == ("group", STUDY)
    assert run["tags"]["tlx.status"] == "finished"
    assert run["tags"]["env.python"] == "3.11"
    assert run["tags"]["tlx.trial.knn"] == lab.keys[2]
    assert run["tags"]["tlx.trial.ncm:metric_cosine"] == lab.keys[3]
    assert [value for _, _, value in run["history"]["test_accuracy/knn"]] == [0.7]
    assert [value for _, _, value in run["history"]["test_accuracy/ncm:metric_cosine"]] == [0.8]
    assert run["history"]["cost.wall_s/knn"][0][2] == 2.0
    assert run["inputs"][0][0] == "digits"
    assert run["params"] == {"Draw": "1", "Data": "digits", "cfg.kind": "fe", "cfg.draw": "1"}
    journals = [
        files.Journal.read(lab.store.folder(key) / "metrics.journal") for key in lab.keys[2:]
    ]
    assert run["times"] == (
        min(journal[0]["ts"] for journal in journals),
        max(record["ts"] for journal in journals for record in journal),
    )


def test_a_whole_group_costs_one_call_of_each_kind(tmp_path, local, monkeypatch):
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    counts: Counter[str] = Counter()
    names = ("search_runs", "create_run", "get_run", "log_batch", "log_inputs", "update_run_info")
    for name in names:
        method = getattr(SqlAlchemyStore, name)

        def call(self, *args, method=method, name=name, **kwargs):
            counts[name] += 1
            return method(self, *args, **kwargs)

        monkeypatch.setattr(SqlAlchemyStore, name, call)
    spent = []
    for n in (2, 5):
        lab = Groups(tmp_path / str(n), n, study=f"{n:064d}", labels=[f"c{i}" for i in range(n)])
        monkeypatch.setattr(lab, "group", lambda draw, n=n: files.digest([n, draw]))
        record = lab.store.read_study(lab.study)
        for row in record["trials"]:
            row["group"] = files.digest([n, row["group"]])
        lab.store.write_study(lab.study, record)
        lab.finish()
        before = Counter(counts)
        sync(lab, local)
        spent.append(Counter(counts) - before)
    each = {name: (spent[1][name] - spent[0][name]) / 3 for name in names}
    assert each == dict.fromkeys(names, 1.0) | {"get_run": 0.0}


def test_a_live_mirror_sends_a_group_once_it_is_whole(lab, local):
    lab.run(0)
    lab.run(1, epochs=2, whole=False)
    carrier = tracking_api.StudySync(local, lab.store, STUDY, None)
    assert carrier.sweep()
    assert set(by_key(local)) == {STUDY}, "one of its trials still runs"
    lab.run(1)
    assert carrier.sweep()
    assert set(by_key(local)) == {STUDY, lab.group(0)}
    carrier.close()


def test_sending_again_changes_nothing(lab, local):
    lab.finish()
    sync(lab, local)
    before = content(local)
    for cursors in ("kept", "lost"):
        if cursors == "lost":
            shutil.rmtree(lab.root / "tracking")
        sync(lab, local)
        assert content(local) == before, cursors


def test_an_interrupted_study_continues_in_the_same_runs(lab, local):
    for number in (0, 1, 2):
        lab.run(number)
    lab.run(3, epochs=2, whole=False)
    done, report = carry(lab, local, tracking_api.KILLED)
    assert done
    assert report.unsent == 0
    first = content(local)
    assert (first[lab.group(0)]["status"], first[lab.group(1)]["status"]) == ("FINISHED", "KILLED")
    assert first[lab.group(1)]["tags"]["tlx.status"] == "interrupted"
    assert "test_accuracy/knn" in first[lab.group(1)]["history"]
    ids = {key: run.info.run_id for key, run in by_key(local).items()}
    sync(lab, local)
    assert content(local) == first, "nothing has happened since"
    lab.finish()
    sync(lab, local)
    assert {key: run.info.run_id for key, run in by_key(local).items()} == ids
    after = content(local)[lab.group(1)]
    assert (after["status"], after["tags"]["tlx.status"]) == ("FINISHED", "finished")
    assert {len(points) for points in after["history"].values()} == {1}
    assert len([name for name in after["history"] if name.startswith("test_accuracy/")]) == 2


@pytest.mark.crash
@pytest.mark.parametrize("steps", [False, True])
def test_a_mirror_killed_between_any_two_calls_ends_the_same(
    steps, tmp_path, local, empty_database
):
    lab = Groups(tmp_path / "root", 3, alone=1, steps=steps)
    lab.finish()
    sync(lab, local)
    expected = content(local)
    is_done = False
    for calls in range(200):
        folder = tmp_path / f"killed-{calls}"
        folder.mkdir()
        shutil.copy(empty_database, folder / "mlflow.db")
        target = tracking_api.resolve(str(folder), {})
        is_done, _ = carry(lab, target, tracking_api.FINISHED, calls)
        sync(lab, target)
        assert content(target) == expected, calls
        shutil.rmtree(folder)
        if is_done:
            break
    assert is_done
    assert calls > 15


@pytest.mark.crash
@pytest.mark.parametrize("steps", [False, True])
def test_a_mirror_killed_while_a_group_grows_ends_the_same(steps, tmp_path, local, empty_database):
    """First one trial of the group, then the other, cut off at every call of the second time."""
    lab = Groups(tmp_path / "root", 1, steps=steps)
    lab.run(0)
    carry(lab, local, tracking_api.KILLED)
    cursors, database = tmp_path / "cursors", local.database
    shutil.copytree(lab.root / "tracking", cursors)
    shutil.copy(database, tmp_path / "before.db")
    lab.finish()
    sync(lab, local)
    expected = content(local)
    for calls in range(100):
        shutil.copy(tmp_path / "before.db", database)
        shutil.rmtree(lab.root / "tracking")
        shutil.copytree(cursors, lab.root / "tracking")
        is_done, _ = carry(lab, local, tracking_api.FINISHED, calls)
        sync(lab, local)
        assert content(local) == expected, calls
        if is_done:
            break
    assert is_done


def test_a_failed_trial_gives_its_reason_under_its_label(lab, local):
    run = failed(lab, local, "out of memory at http://bob:s3cr3t@host")
    assert (run.info.status, run.data.tags["tlx.status"]) == ("FAILED", "failed")
    tag = "tlx.error.ncm:metric_cosine"
    assert run.data.tags[tag] == "out of memory at http://***@host"
    before = content(local)
    sync(lab, local)
    assert content(local) == before, "sync knows no reasons, so it leaves what is said"


def test_a_damaged_trial_does_not_stop_the_others_of_its_group(lab, local):
    lab.finish()
    (lab.store.folder(lab.keys[1]) / "result.json").write_bytes(b"{}")
    report = tracking_api.sync(lab.root, local)
    (fault,) = report.faults
    assert fault.exit_code == 9
    assert lab.keys[1] in str(fault)
    found = by_key(local)
    assert set(found) == {STUDY, lab.group(0), lab.group(1)}
    assert "test_accuracy/knn" in found[lab.group(0)].data.metrics
    assert report.unsent >= 1


def test_a_run_that_a_person_deleted_is_made_again(lab, local):
    lab.finish()
    sync(lab, local)
    before = content(local)
    client_of(local).delete_run(by_key(local)[lab.group(1)].info.run_id)
    sync(lab, local)
    assert content(local) == before


def test_a_trial_made_anew_after_a_cut_off_sending_has_one_point(lab, local):
    """Numbers were sent and their tag was not; the trial was thrown away and made again."""
    lab.finish()
    sync(lab, local)
    client, run = client_of(local), by_key(local)[lab.group(0)]
    client.delete_tag(run.info.run_id, "tlx.trial.knn")
    client.log_metric(run.info.run_id, "test_accuracy/knn", 0.123, timestamp=2**41)
    shutil.rmtree(lab.root / "tracking")
    sync(lab, local)
    again = content(local)[lab.group(0)]
    assert [value for _, _, value in again["history"]["test_accuracy/knn"]] == [0.5]
    assert client.get_run(run.info.run_id).info.lifecycle_stage == "deleted"


# ---------------------------------------------------------------- several trials of one label


@pytest.fixture
def draws(tmp_path):
    return Groups(tmp_path / "root", steps=True)


def accuracies(run) -> dict[int, list[float]]:
    """Return step → accuracies of the trials labelled knn."""
    found: dict[int, list[float]] = {}
    for step, _, value in run["history"]["test_accuracy/knn"]:
        found.setdefault(step, []).append(value)
    return found


def test_trials_of_one_label_are_steps_of_its_metrics(draws, local):
    draws.finish()
    sync(draws, local)
    run = content(local)[draws.group(1)]
    assert accuracies(run) == {0: [0.7], 1: [0.8]}
    assert [step for step, *_ in run["history"]["cost.wall_s/knn"]] == [0, 1]
    assert run["tags"]["tlx.trial.knn.0"] == draws.keys[2]
    assert run["tags"]["tlx.trial.knn.1"] == draws.keys[3]
    before = content(local)
    shutil.rmtree(draws.root / "tracking")
    sync(draws, local)
    assert content(local) == before


def test_a_group_that_gets_steps_more_has_them_in_the_same_run(draws, local):
    """Also steps before those that it has, whose numbers are not those that a run shows first."""
    for number in (1, 3):
        draws.run(number)
    carry(draws, local, tracking_api.KILLED)
    before = {key: run.info.run_id for key, run in by_key(local).items()}
    draws.finish()
    sync(draws, local)
    found = content(local)
    assert {key: run.info.run_id for key, run in by_key(local).items()} == before
    assert accuracies(found[draws.group(0)]) == {0: [0.5], 1: [0.6]}
    assert found[draws.group(0)]["status"] == "FINISHED"


@pytest.mark.parametrize("step", [0, 1])
def test_a_step_made_anew_after_a_cut_off_sending_has_one_point(step, draws, local):
    draws.finish()
    sync(draws, local)
    client, run = client_of(local), by_key(local)[draws.group(0)]
    client.delete_tag(run.info.run_id, f"tlx.trial.knn.{step}")
    client.log_metric(run.info.run_id, "test_accuracy/knn", 0.123, timestamp=2**41, step=step)
    shutil.rmtree(draws.root / "tracking")
    sync(draws, local)
    assert accuracies(content(local)[draws.group(0)]) == {0: [0.5], 1: [0.6]}
    assert client.get_run(run.info.run_id).info.lifecycle_stage == "deleted"


def test_a_failed_step_gives_its_reason_under_its_name(draws, local):
    run = failed(draws, local, "out of memory")
    assert run.data.tags["tlx.error.knn.1"] == "out of memory"
    assert "tlx.error.knn.0" not in run.data.tags


def test_a_new_parent_run_takes_the_groups_along(lab, local):
    lab.finish()
    sync(lab, local)
    first = by_key(local)
    lab.summarise({1: 0.2, 5: 0.6})
    sync(lab, local)
    second = by_key(local)
    assert second[STUDY].info.run_id != first[STUDY].info.run_id
    for draw in (0, 1):
        run = second[lab.group(draw)]
        assert run.info.run_id == first[lab.group(draw)].info.run_id
        assert run.data.tags["mlflow.parentRunId"] == second[STUDY].info.run_id


def test_a_group_of_two_studies_is_one_run_under_the_newer(lab, local):
    lab.finish()
    sync(lab, local)
    wider = Groups(lab.root, 3, study="6" * 64)
    wider.finish()
    sync(wider, local)
    found = content(local)
    assert set(found) == {STUDY, "6" * 64, *(wider.group(draw) for draw in range(3))}
    assert {found[wider.group(draw)]["tags"]["mlflow.parentRunId"] for draw in range(3)} == {
        "6" * 64
    }


def test_a_group_that_gets_a_trial_more_has_it_in_the_same_run(lab, local):
    lab.finish()
    sync(lab, local)
    before = by_key(local)[lab.group(0)].info.run_id
    record = lab.store.read_study(STUDY)
    more = Lab(lab.root, 5)
    row = {**record["trials"][0], "key": more.keys[4], "label": "logistic"}
    lab.store.write_study(STUDY, {**record, "trials": [*record["trials"], row]})
    more.run(4)
    more.summarise()
    sync(lab, local)
    run = by_key(local)[lab.group(0)]
    assert run.info.run_id == before
    assert run.data.metrics["test_accuracy/logistic"] == pytest.approx(0.9)
    assert run.info.status == "FINISHED"


def test_trials_that_are_asked_for_by_themselves_get_runs_and_their_group_loses_its_own(lab, local):
    lab.finish()
    sync(lab, local)
    record = lab.store.read_study(STUDY)
    for row in record["trials"]:
        if row["group"] == lab.group(0):
            del row["group"]
    lab.store.write_study(STUDY, record)
    lab.summarise()
    sync(lab, local)
    assert set(by_key(local)) == {STUDY, lab.group(1), *lab.keys[:2]}


def test_more_metrics_than_one_call_may_carry_come_before_the_tags(tmp_path, local, monkeypatch):
    lab = Groups(tmp_path / "many", 1, labels=tuple(f"c{i}" for i in range(5)))
    lab.finish()
    monkeypatch.setattr("lab.tracked.EPOCHS", 0)
    calls = []
    method = Sender.batch

    def batch(self, run_id, points=(), params=None, tags=None):
        calls.append((len(points), len(params or {}), len(tags or {})))
        method(self, run_id, points, params, tags)

    monkeypatch.setattr(Sender, "batch", batch)
    monkeypatch.setattr("tlx.lab.tracking.client.METRICS_A_CALL", 3)
    sync(lab, local)
    large = [call for call in calls if call[0] > 3]
    assert [tags for _, _, tags in large] == [0]
    assert len(by_key(local)[lab.group(0)].data.metrics) == 10


def test_unsent_numbers_are_counted(lab, local):
    lab.finish()
    done, report = carry(lab, local, tracking_api.FINISHED, 0)
    assert not done
    assert report.unsent == 2 * (2 + 1) + 1
    time.sleep(0.01)
    sync(lab, local)
    assert tracked.plain(content(local))


def test_the_run_that_shows_a_trial_is_found(tmp_path, local):
    lab = Groups(tmp_path / "root", 2, alone=1)
    lab.finish()
    sync(lab, local)
    runs, sender = by_key(local), Sender(local, "Fine-tuning")
    assert sender.find_showing(lab.keys[3]).info.run_id == runs[lab.group(1)].info.run_id
    assert sender.find_showing(lab.keys[4]).info.run_id == runs[lab.keys[4]].info.run_id
    assert sender.find_showing("f" * 64) is None
