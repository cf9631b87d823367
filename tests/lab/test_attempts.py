"""Attempts at one trial: drafts of their own, no lock, the first that commits wins."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator

import pytest
from lab import tiny_tasks

from tlx import files, locks
from tlx.errors import IntegrityError, ResourceError, UnsafeError
from tlx.lab import attempts, environment
from tlx.lab.store import JOURNAL, Store, reproducible_fields
from tlx.result import Result

KEY, STEPS = "2a" * 8, 6


def result_of(key: str = KEY, **changes) -> Result:
    scores = {"loss": tiny_tasks.loss(key, STEPS)}
    return Result(**{"key": key, "kind": "Tiny", "spec": {}, "scores": scores} | changes)


def writer(root, name: str) -> Iterator[str]:
    """An attempt that pauses after each thing it does on disk; says what it came to."""
    store = Store(root, attempt=name)
    try:
        with store.claim(KEY) as draft:
            yield "claimed"
            if store.find(KEY) is not None:
                yield "found"
                return
            steps = set(draft.steps)
            yield "begun"
            for step in range(1, STEPS + 1):
                if step not in steps:
                    draft.log(step, {"loss": tiny_tasks.loss(KEY, step)})
                    files.write_bytes(draft.folder / "state", str(step).encode())
                    yield f"step {step}"
            draft.commit(result_of())
            yield "committed"
    except (OSError, ResourceError):
        assert store.find(KEY) is not None  # another has won
        yield "lost"


def steps_of(store: Store) -> list[tuple[int, float]]:
    rows = files.Journal.read(store.folder(KEY) / JOURNAL)
    return [(row["step"], row["values"]["loss"]) for row in rows if row["t"] == "metrics"]


WHOLE = [(step, tiny_tasks.loss(KEY, step)) for step in range(1, STEPS + 1)]


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that grants every lock, as some do."""
    monkeypatch.setattr(locks, "_flock", lambda fd, path, operation: None)
    monkeypatch.setattr(locks, "_kind_of_locks", lambda folder: locks._Kind(True, False))


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("number", range(50))
def test_two_writers_leave_one_whole_trial_however_they_alternate(tmp_path, rng, number):
    writers = {
        name: writer(tmp_path, name) for name in ("first", "second", "third")[: 2 + number % 2]
    }
    dead = set()
    while alive := sorted(writers.keys() - dead):
        name = rng.choice(alive)
        if len(alive) > 1 and rng.random() < 0.03:
            dead.add(name)  # killed where it stands: its draft stays
            continue
        if next(writers[name], None) is None:
            dead.add(name)
    store = Store(tmp_path)
    store.verify(KEY)
    assert reproducible_fields(store.find(KEY)) == reproducible_fields(result_of())
    assert steps_of(store) == WHOLE
    store.remove_finished_parts()
    assert [path.name for path in (tmp_path / "trials").iterdir()] == [KEY]
    assert not any((tmp_path / "attempts").iterdir())


def leave(root, name: str, steps: int) -> Iterator[str]:
    """An attempt that ended after so many steps."""
    ended = writer(root, name)
    while next(ended) != (f"step {steps}" if steps else "begun"):
        pass
    return ended


def test_an_attempt_begins_where_the_furthest_one_stands(tmp_path):
    leave(tmp_path, "near", 2)
    leave(tmp_path, "far", 4)  # a copy of near that went on
    with Store(tmp_path, attempt="new").claim(KEY) as draft:
        assert draft.steps == {1, 2, 3, 4}
        assert (draft.folder / "state").read_bytes() == b"4"
    assert sorted(path.name for path in attempts.parts(tmp_path / "trials" / KEY)) == [
        "far",
        "near",
        "new",
    ]


def test_a_process_with_a_lock_goes_on_from_an_attempt_and_an_attempt_from_it(tmp_path):
    leave(tmp_path, "far", 3)
    with Store(tmp_path).claim(KEY) as draft:
        assert draft.steps == {1, 2, 3}
        draft.log(4, {"loss": tiny_tasks.loss(KEY, 4)})
    with Store(tmp_path, attempt="next").claim(KEY) as draft:
        assert draft.steps == {1, 2, 3, 4}


def test_a_draft_of_another_kind_of_cpu_is_not_continued(tmp_path, monkeypatch):
    leave(tmp_path, "elsewhere", 3)
    monkeypatch.setattr(environment, "cpu_kind", lambda: "another")
    with Store(tmp_path, attempt="here").claim(KEY) as draft:
        assert draft.steps == set()


def test_a_draft_that_vanishes_while_it_is_copied_is_skipped(tmp_path, monkeypatch):
    leave(tmp_path, "vanishing", 3)
    copy_file = attempts._copy_file

    def vanish(source, target):
        if str(source).endswith(JOURNAL):
            shutil.rmtree(tmp_path / "attempts" / KEY / "vanishing")
        return copy_file(source, target)

    monkeypatch.setattr(attempts, "_copy_file", vanish)
    with Store(tmp_path, attempt="new").claim(KEY) as draft:
        assert draft.steps == set()
    assert [p.name for p in (tmp_path / "attempts" / KEY).iterdir()] == ["new"]


def test_a_draft_with_a_link_is_refused_and_nothing_behind_it_is_copied(tmp_path):
    leave(tmp_path, "hostile", 3)
    (tmp_path / "secret").write_text("s3cr3t")
    (tmp_path / "attempts" / KEY / "hostile" / "notes").symlink_to(tmp_path / "secret")
    with Store(tmp_path, attempt="new").claim(KEY) as draft, pytest.raises(UnsafeError):
        _ = draft.folder
    assert [path.name for path in (tmp_path / "attempts" / KEY).iterdir()] == ["hostile"]


def test_a_disk_that_is_full_while_a_draft_is_copied_is_said(tmp_path, monkeypatch):
    leave(tmp_path, "far", 3)

    def fill(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(attempts, "_copy_file", fill)
    with Store(tmp_path, attempt="new").claim(KEY) as draft:
        with pytest.raises(ResourceError) as caught:
            _ = draft.folder
        assert caught.value.code == "disk-full"


def test_what_a_draft_has_in_folders_is_copied_too(tmp_path):
    leave(tmp_path, "far", 3)
    files.write_bytes(tmp_path / "attempts" / KEY / "far" / "sub" / "array.npy", b"123")
    files.write_bytes(tmp_path / "attempts" / KEY / "far" / ".tmp-half", b"1")
    with Store(tmp_path, attempt="new").claim(KEY) as draft:
        assert (draft.folder / "sub" / "array.npy").read_bytes() == b"123"
        assert not (draft.folder / ".tmp-half").exists()


def test_of_two_kinds_of_cpu_the_second_result_is_dropped(tmp_path):
    first, second = (Store(tmp_path, attempt=name) for name in ("first", "second"))
    with first.claim(KEY) as draft, second.claim(KEY) as late:
        late.log(1, {"loss": 2.0})
        draft.commit(result_of(environment={"cpu_kind": "another"}))
        files.make_folder(late.folder)
        kept = late.commit(result_of(scores={"loss": 5.0}))
    assert kept.scores == result_of().scores
    assert [path.name for path in (tmp_path / "trials").iterdir()] == [KEY]


def test_what_an_attempt_sealed_and_did_not_rename_is_found_by_the_next(tmp_path, monkeypatch):
    from tlx.lab import sealed

    first = leave(tmp_path, "first", STEPS)
    with monkeypatch.context() as patched:
        patched.setattr(sealed, "publish", lambda part, final: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(first)
    store = Store(tmp_path, attempt="second")
    assert store.find(KEY) is None
    with store.claim(KEY):
        assert store.find(KEY) is not None


def test_one_whose_draft_was_removed_by_the_winner_has_the_winners_result(tmp_path):
    def lose(draft):
        draft.log(1, {"loss": tiny_tasks.loss(KEY, 1)})
        assert [*writer(tmp_path, "winner")][-1] == "committed"
        files.write_bytes(draft.folder / "new" / "file", b"")  # its folder is gone
        shutil.rmtree(draft.folder)
        raise FileNotFoundError(draft.folder)

    result = Store(tmp_path, attempt="loser").get_or_compute(KEY, lose)
    assert reproducible_fields(result) == reproducible_fields(result_of())


def test_two_different_results_of_one_kind_of_cpu_are_both_kept(tmp_path):
    with Store(tmp_path, attempt="second").claim(KEY) as draft:
        draft.log(1, {"loss": 1.0})
        assert [*writer(tmp_path, "first")][-1] == "committed"
        files.make_folder(draft.folder)
        with pytest.raises(IntegrityError, match="differ"):
            draft.commit(result_of(scores={"loss": 5.0}))


def test_a_result_that_is_not_seen_is_named(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ResourceError, match=KEY):
        store.wait_for([KEY], patience_s=0.0)
    assert [*writer(tmp_path, "only")][-1] == "committed"
    store.wait_for([KEY], patience_s=0.0)


def test_removing_a_trial_removes_its_attempts(tmp_path):
    leave(tmp_path, "one", 2)
    Store(tmp_path).remove(KEY)
    assert attempts.parts(tmp_path / "trials" / KEY) == []
