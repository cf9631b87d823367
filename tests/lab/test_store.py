"""Run folders: whole or to be continued, whatever happens and whenever."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from lab import crash_trial

from tlx import files
from tlx.errors import BadDataError, BusyError, IntegrityError, ResourceError, UnsafeError
from tlx.lab import attempts
from tlx.lab.store import FORMAT, LARGE, Draft, Store, reproducible_fields
from tlx.result import Result
from tlx.studies.fine_tuning.spec import FineTuning

KEY = "0f" * 32  # of a trial
HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def a_result(key=KEY, **changes) -> Result:
    fields = {
        "kind": "Tiny",
        "spec": {"kind": "Tiny", "shots": 5},
        "scores": {"test_accuracy": 0.5, "train_s": 1.25},
        "details": {"classes": ["a", "b"]},
        "cost": {"wall_s": {"value": 1.0, "unit": "s", "source": "measured"}},
    }
    return Result(key=key, **{**fields, **changes})


def fill(draft: Draft, result: Result | None = None) -> Result:
    for step in range(3):
        draft.log(step, {"loss": 1 / (step + 1)})
    files.write_bytes(draft.folder / "weights.bin", bytes(range(256)))
    return result or a_result(draft.key)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


# ---------------------------------------------------------------- the trip


def test_a_result_comes_back_as_it_went_in(store):
    assert store.find(KEY) is None
    assert store.get_or_compute(KEY, fill) == a_result()
    assert store.find(KEY) == a_result()
    assert store.keys() == [KEY]
    assert not store.folder(KEY).with_name(KEY + ".part").exists()


def test_a_finished_key_is_not_made_again(store):
    store.get_or_compute(KEY, fill)
    assert store.get_or_compute(KEY, lambda draft: pytest.fail("made again")) == a_result()


def test_a_claim_that_comes_to_nothing_leaves_nothing(store):
    with store.claim(KEY):
        pass
    assert not (store.root / "trials").exists()
    assert store.find(KEY) is None


def test_an_interrupted_trial_is_continued(store):
    def fail(draft):
        draft.log(0, {"loss": 1.0})
        draft.log(1, {"loss": 0.5})
        (draft.folder / (files.TEMPORARY + "weights.bin")).write_bytes(b"half")
        (draft.folder / "deep").mkdir()
        (draft.folder / "deep" / (files.TEMPORARY + "x")).write_bytes(b"half")
        raise KeyError

    with pytest.raises(KeyError):
        store.get_or_compute(KEY, fail)
    with store.claim(KEY) as draft:
        assert draft.steps == {0, 1}
        draft.log(1, {"loss": 99.0})  # there already: left as it is
        draft.log(2, {"loss": 0.25})
        rows = [r for r in draft.journal.records if r["t"] == "metrics"]
        assert [(r["step"], r["values"]["loss"]) for r in rows] == [(0, 1.0), (1, 0.5), (2, 0.25)]
        assert not list(draft.folder.rglob(files.TEMPORARY + "*"))
        draft.commit(a_result())
    assert files.Journal.read(store.folder(KEY) / "metrics.journal")[1:] == rows


def test_a_commit_cut_off_before_its_renaming_is_completed(store):
    store.get_or_compute(KEY, fill)
    final = store.folder(KEY)
    part = final.with_name(KEY + ".part")
    os.rename(final, part)
    assert store.find(KEY) is None
    assert store.get_or_compute(KEY, lambda draft: pytest.fail("made again")) == a_result()
    os.rename(final, part)
    (part / "weights.bin").write_bytes(b"damaged")
    assert (
        store.get_or_compute(KEY, fill) == a_result()
    )  # the seal did not hold, so it is made again
    store.verify(KEY)


def test_times_strictly_increase_when_the_clock_does_not(store, monkeypatch):
    clock = iter([5_000, 5_000, 4_000, 6_000])
    monkeypatch.setattr(time, "time_ns", lambda: next(clock) * 1_000_000)
    with store.claim(KEY) as draft:
        for step in range(3):
            draft.log(step, {"loss": 1.0})
        times = [r["ts"] for r in draft.journal.records]
    assert times == sorted(set(times))
    assert times[-1] == 6_000


def test_what_is_not_finite_is_journalled_by_name(store):
    with store.claim(KEY) as draft:
        draft.log(1, {"loss": float("nan"), "rate": float("inf"), "accuracy": 0.5})
        record = draft.journal.records[-1]
    assert record["values"] == {"accuracy": 0.5}
    assert record["not_finite"] == {"loss": "nan", "rate": "inf"}


def test_the_result_of_another_key_is_not_committed(store):
    with store.claim(KEY) as draft, pytest.raises(ValueError, match="cannot be committed"):
        draft.commit(a_result("ab12"))


@pytest.mark.parametrize("key", ["", "../x", "a/b", ".", "A", "x" * 81, "a\n", "ä"])
def test_a_key_is_nothing_that_means_something_in_a_path(store, key):
    with pytest.raises(UnsafeError, match="not a key"):
        store.find(key)


def test_remove_forgets(store):
    store.get_or_compute(KEY, fill)
    store.remove(KEY)
    assert store.find(KEY) is None
    assert list((store.root / "trials").iterdir()) == []
    store.remove(KEY)  # nothing to forget is fine
    assert store.get_or_compute(KEY, fill) == a_result()


def test_asking_for_hundreds_of_trials_is_cheap(store):
    for number in range(100):
        store.get_or_compute(f"{number:04x}", lambda draft: a_result(draft.key))
    keys = store.keys()
    assert all(store.find(key) for key in keys)


# ---------------------------------------------------------------- two at once

HOLD = """
import sys, time
from tlx.lab.store import FORMAT, Store
with Store(sys.argv[1]).claim(sys.argv[2]) as draft:
    draft.log(0, {"loss": 1.0})
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(store):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.root), KEY], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_claimed_key_is_busy_and_names_its_holder(store, holder):
    with (
        pytest.raises(BusyError, match=rf"in use by process {holder.pid}") as caught,
        store.claim(KEY),
    ):
        pass
    assert caught.value.exit_code == 8
    with store.claim("ab12"):  # another key is free
        pass


def test_a_killed_holder_frees_its_key_at_once(store, holder):
    holder.kill()
    holder.wait()
    with store.claim(KEY) as draft:
        assert draft.steps == {0}


def test_a_forked_child_does_not_keep_the_lock(store):
    """A data-loading worker that outlives its killed trial must not make the trial busy."""
    with store.claim(KEY):
        child = os.fork()
        if child == 0:
            time.sleep(20)
            os._exit(0)
    try:
        with store.claim(KEY):
            pass
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def put_beside(store, result):
    """A whole folder of the key appears while the trial runs (another host, no common lock)."""
    other = Store(store.root.parent / "other")
    other.get_or_compute(KEY, lambda draft: fill(draft, result))
    os.rename(other.folder(KEY), store.folder(KEY))


def test_an_equal_result_that_came_first_is_fine(store):
    theirs = a_result(
        scores={"test_accuracy": 0.5, "train_s": 99.0}, cost={}, environment={"host": "b"}
    )
    with store.claim(KEY) as draft:
        fill(draft)
        put_beside(store, theirs)
        assert draft.commit(a_result()) == theirs
    assert [p.name for p in (store.root / "trials").iterdir()] == [KEY]


def test_a_different_result_that_came_first_keeps_both(store):
    theirs = a_result(scores={"test_accuracy": 0.75})
    with store.claim(KEY) as draft:
        fill(draft)
        put_beside(store, theirs)
        with pytest.raises(IntegrityError, match="results-differ") as caught:
            draft.commit(a_result())
    assert store.find(KEY) == theirs
    kept = store.root / "trials" / f"{KEY}.differs-1"
    assert str(kept) in str(caught.value)
    files.verify(kept)
    assert (
        json.loads((kept / "result.json").read_text())["result"]["scores"]["test_accuracy"] == 0.5
    )


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Result)])
def test_what_makes_two_results_differ(field):
    """Cost and environment may differ, and times; nothing else may."""
    base = a_result()
    other = {"key": "ab12", "kind": "X", "status": "diverged"}.get(field, {"x": 1.0})
    differs = reproducible_fields(base) != reproducible_fields(
        dataclasses.replace(base, **{field: other})
    )
    assert differs == (field not in ("cost", "environment"))


def test_two_results_may_differ_in_where_they_were_computed():
    specs = [
        FineTuning(dataset=dataset, replicas=4, replica_processes=number, seed=seed).to_json()
        for dataset, number, seed in (("a", 1, 0), ("/b", 4, 0), ("a", 1, 1))
    ]
    here, there, other = (reproducible_fields(a_result(spec=spec)) for spec in specs)
    assert here == there
    assert here != other


# ---------------------------------------------------------------- damage


def test_every_flipped_bit_is_noticed(store):
    store.get_or_compute(KEY, fill)
    folder, rng = store.folder(KEY), random.Random(20240601)
    paths = sorted(p for p in folder.iterdir())
    assert {p.name for p in paths} == {
        "MANIFEST.json",
        "metrics.journal",
        "result.json",
        "weights.bin",
    }
    for _ in range(400):
        path = rng.choice(paths)
        whole = path.read_bytes()
        bit = rng.randrange(8 * len(whole))
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        with pytest.raises(IntegrityError) as caught:
            store.find(KEY)
        assert str(folder) in caught.value.where
        assert f"remove {folder} and run the same command again" in str(caught.value)
        path.write_bytes(whole)
    assert store.find(KEY) == a_result()


@pytest.mark.parametrize("name", ["MANIFEST.json", "metrics.journal", "result.json", "weights.bin"])
def test_lost_and_cut_files_are_noticed(store, name):
    store.get_or_compute(KEY, fill)
    path = store.folder(KEY) / name
    whole = path.read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 2):  # the last byte of JSON is but a newline
        path.write_bytes(whole[:cut])
        with pytest.raises(IntegrityError):
            store.find(KEY)
        path.write_bytes(
            whole[:cut] + bytes(len(whole) - cut)
        )  # the length a power cut may leave, without the data
        with pytest.raises(IntegrityError):
            store.find(KEY)
    path.unlink()
    with pytest.raises(IntegrityError) as caught:
        store.find(KEY)
    assert caught.value.exit_code == 9


def test_a_result_is_checked_whatever_its_size(store, monkeypatch):
    store.get_or_compute(KEY, lambda draft: a_result())
    monkeypatch.setattr("tlx.lab.store.LARGE", 10)
    path = store.folder(KEY) / "result.json"
    data = path.read_bytes()
    at = data.index(b'"scores"') + 1
    path.write_bytes(data[:at] + b"S" + data[at + 1 :])
    with pytest.raises(IntegrityError, match=r"result\.json"):
        store.find(KEY)


def test_a_large_file_is_checked_when_it_is_used(store):
    def make(draft):
        files.write_bytes(draft.folder / "weights.bin", bytes(LARGE + 1))
        return a_result()

    store.get_or_compute(KEY, make)
    path = store.file(KEY, "weights.bin")
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"x")
    store.find(KEY)
    for check in (lambda: store.file(KEY, "weights.bin"), lambda: store.verify(KEY)):
        with pytest.raises(IntegrityError, match=r"weights\.bin"):
            check()
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(IntegrityError, match=r"weights\.bin"):
        store.find(KEY)


def test_a_file_that_the_manifest_does_not_list_is_not_given(store):
    store.get_or_compute(KEY, fill)
    (store.folder(KEY) / "planted").write_text("x")
    with pytest.raises(IntegrityError, match="planted"):
        store.file(KEY, "planted")


def test_a_newer_format_is_refused_with_both_versions(store):
    store.get_or_compute(KEY, fill)
    path = store.folder(KEY) / "result.json"
    files.write_json(
        path, json.loads(path.read_text()) | {"format": 99, "tlx": "9.1.0", "new": True}
    )
    files.seal(path.parent)
    with pytest.raises(BadDataError, match=r"tlx 9\.1\.0 in format 99") as caught:
        store.find(KEY)
    assert caught.value.code == "newer-format"
    with store.claim("ab12") as draft:
        files.Journal(draft.folder / "metrics.journal").append(
            {"t": "start", "ts": 1, "format": 99, "tlx": "9.1.0"}
        )
    with store.claim("ab12") as draft, pytest.raises(BadDataError, match="format 99"):
        draft.log(0, {})


def test_a_folder_of_another_key_is_noticed(store):
    store.get_or_compute(KEY, fill)
    shutil.copytree(store.folder(KEY), store.folder("ab12"))
    with pytest.raises(IntegrityError, match="wrong-key"):
        store.find("ab12")


def test_a_summary_of_many_goes_on_without_the_damaged(store):
    store.get_or_compute(KEY, fill)
    assert store.find_or_none(KEY) == store.find(KEY) == a_result()
    assert store.find_or_none("ab12") is None
    (store.folder(KEY) / "result.json").write_bytes(b"{}")
    assert store.find_or_none(KEY) is None
    with pytest.raises(IntegrityError):
        store.find(KEY)


# ---------------------------------------------------------------- studies


def test_studies(store):
    assert store.read_study(KEY) is None
    assert store.studies() == []
    study = {"trials": ["ab12", "cd34"], "title": "é"}
    store.write_study(KEY, study)
    assert store.read_study(KEY) == study
    assert store.studies() == [KEY]
    store.write_study(KEY, study | {"title": "again"})
    assert store.read_study(KEY)["title"] == "again"


def test_every_flipped_bit_of_a_study_is_noticed(store):
    store.write_study(KEY, {"trials": ["ab12"], "n": 12})
    path = store.root / "studies" / KEY / "study.json"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        with pytest.raises(IntegrityError):
            store.read_study(KEY)


# ---------------------------------------------------------------- crashes


def needs_strace() -> None:
    works = (
        shutil.which("strace")
        and subprocess.run(
            ["strace", "-o", os.devnull, "true"], check=False, capture_output=True
        ).returncode
        == 0
    )
    if not works:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say("the crash tests need strace and the right to use it: apt-get install strace")


@pytest.fixture
def crashsim(shared_data):
    """The crash-state enumerator beside the real data."""
    needs_strace()
    path = shared_data.parent / "tools" / "crashsim.py"
    if not path.exists():
        pytest.skip(f"the crash simulator is not here ({path})")
    spec = importlib.util.spec_from_file_location("crashsim", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.FS = with_folder_renames(module.FS)
    module.parse = with_folder_descriptors(module.parse)
    return module


def with_folder_descriptors(parse):
    """The simulator's reading of a record, with names that stand relative to an opened folder made
    absolute.
    """
    named = re.compile(r'(\d+), "((?:\\x[0-9a-f]{2})+)"')

    def absolute(log, root, cwd):
        folders: dict[str, str] = {}
        lines = []
        for written in Path(log).read_text(errors="replace").splitlines(keepends=True):
            line = named.sub(
                lambda m: f'AT_FDCWD, "{folders[m[1]]}\\x2f{m[2]}"' if m[1] in folders else m[0],
                written,
            )
            opened = re.search(
                r'openat\(AT_FDCWD, "((?:\\x[0-9a-f]{2})+)".* = (\d+)$', line.rstrip()
            )
            if opened:
                folders.pop(opened[2], None)
                if "O_DIRECTORY" in line:
                    folders[opened[2]] = opened[1]
            lines.append(line)
        Path(log).write_text("".join(lines))
        return parse(log, root, cwd)

    return absolute


def with_folder_renames(base):
    """The simulator's file system, with what it leaves out: renaming a folder moves what is below
    it.
    """

    def move(names, old, new):
        for path in [p for p in names if p.startswith(old + "/")]:
            names[new + path[len(old) :]] = names.pop(path)

    class FS(base):
        def apply(self, op):
            if op[0] != "rename" or op[1] not in self.dirs:
                return super().apply(op)
            old, new = op[1:]
            move(self.names, old, new)
            self.npend.append(("mvdir", old, new))
            for folders in (self.dirs, self.ddirs):
                folders -= {old}
            self.dirs.add(new)

        def durname(self, op, names=None):
            if op[0] != "mvdir":
                return super().durname(op, names)
            move(self.dnames if names is None else names, *op[1:])

    return FS


def recovers(folder: str, said: bytes) -> None:
    """What was acknowledged is there; running again gives the uninterrupted result; nothing is left
    over.
    """
    store, acknowledged = Store(folder), said.decode().split("\n")
    if "whole" in acknowledged:
        assert store.find(crash_trial.KEY) is not None
    part = store.folder(crash_trial.KEY).with_name(crash_trial.KEY + ".part")
    journal = (part if part.exists() else store.folder(crash_trial.KEY)) / "metrics.journal"
    there = {f"step {r['step']}" for r in files.Journal.read(journal) if r["t"] == "metrics"}
    assert {line for line in acknowledged if line.startswith("step")} <= there
    result = crash_trial.run(folder)
    assert result.scores == {"loss": 1 / crash_trial.STEPS}
    rows = files.Journal.read(store.folder(crash_trial.KEY) / "metrics.journal")
    assert [r.get("step") for r in rows] == [None, 1, 2, 3]
    assert [p.name for p in (store.root / "trials").iterdir()] == [crash_trial.KEY]
    files.verify(store.folder(crash_trial.KEY))


def run_crashes(crashsim, root: Path, path: str = str(ROOT)) -> dict:
    command = [sys.executable, str(HERE / "crash_trial.py"), str(root)]
    env = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # the simulator leaves closing its files to Python
        return crashsim.run(command, str(root), recovers, cwd=str(ROOT), env=env)


def test_no_crash_loses_or_changes_anything(crashsim, tmp_path):
    root = tmp_path / "store"
    root.mkdir()
    found = run_crashes(crashsim, root)
    assert (found["kill9_bad"], found["bad"], found["ex"]) == (0, 0, {})
    assert found["kill9_states"] >= 20
    assert found["states"] >= 40


def test_no_crash_during_recovery_loses_or_changes_anything(crashsim, tmp_path):
    """A sealed folder that was not renamed yet, and a torn journal, are crashed once more while
    being continued.
    """
    for name, spoil in (("sealed", lambda part: None), ("torn", tear)):
        root = tmp_path / name
        crash_trial.run(root)
        final = Store(root).folder(crash_trial.KEY)
        part = final.with_name(final.name + ".part")
        os.rename(final, part)
        spoil(part)
        found = run_crashes(crashsim, root)
    assert (found["kill9_bad"], found["bad"], found["ex"]) == (0, 0, {})


def attempt_recovers(folder: str, said: bytes) -> None:
    """As `recovers`, by another attempt: what one acknowledged is in one of the drafts."""
    store, acknowledged = Store(folder), said.decode().split("\n")
    final = store.folder(crash_trial.KEY)
    if "whole" in acknowledged:
        assert store.find(crash_trial.KEY) is not None
    steps = set()
    for place in (final, *attempts.parts(final)):
        rows = files.Journal.read(place / "metrics.journal")
        steps |= {f"step {row['step']}" for row in rows if row["t"] == "metrics"}
    assert {line for line in acknowledged if line.startswith("step")} <= steps
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(attempts.VARIABLE, "next")
        result = crash_trial.run(folder)
    assert result.scores == {"loss": 1 / crash_trial.STEPS}
    rows = files.Journal.read(final / "metrics.journal")
    assert [row.get("step") for row in rows] == [None, 1, 2, 3]
    store.remove_finished_parts()
    assert [path.name for path in (store.root / "trials").iterdir()] == [crash_trial.KEY]
    assert not any((store.root / "attempts").glob("*"))
    files.verify(final)


def test_no_crash_of_an_attempt_loses_or_changes_anything(crashsim, tmp_path, monkeypatch):
    """It copies what another attempt left, continues it, commits, and removes both."""
    root = tmp_path / "store"
    store = Store(root, attempt="before")
    with store.claim(crash_trial.KEY) as draft:
        draft.log(1, {"loss": 1.0})
    monkeypatch.setenv(attempts.VARIABLE, "this")
    monkeypatch.setattr(sys.modules[__name__], "recovers", attempt_recovers)
    result = run_crashes(crashsim, root)
    assert (result["kill9_bad"], result["bad"], result["ex"]) == (0, 0, {})
    assert result["kill9_states"] >= 20
    assert result["states"] >= 30


def tear(part: Path) -> None:
    (part / files.MANIFEST).unlink()
    (part / "result.json").write_bytes(b'{"half')
    journal = part / "metrics.journal"
    journal.write_bytes(journal.read_bytes()[:-20])


def test_the_crash_test_has_teeth(crashsim, tmp_path):
    """Without fsync the same check finds lost results."""
    root = tmp_path / "store"
    root.mkdir()
    lazy = tmp_path / "lazy"
    lazy.mkdir()
    (lazy / "sitecustomize.py").write_text("import os\nos.fsync = lambda fd: None\n")
    found = run_crashes(crashsim, root, f"{lazy}:{ROOT}")
    assert found["bad"] > 10


def run_with_fault(root: Path, call: str, number: int, error: str) -> subprocess.CompletedProcess:
    """The trial with the n-th call of a kind, and all later ones, failing on files below `root`."""
    script = f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(ROOT)!r}]\n" + FAULT
    paths = [f"-P{p}" for p in below(root)]
    inject = f"inject={call}:error={error}:when={number}+"
    return subprocess.run(
        [
            "strace",
            "-f",
            "-qq",
            "-o",
            os.devnull,
            "-e",
            f"trace={call}",
            "-e",
            inject,
            *paths,
            sys.executable,
            "-c",
            script,
            str(root),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


FAULT = """
import crash_trial
from tlx.errors import TlxError
try:
    crash_trial.run(sys.argv[1])
except TlxError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def below(root: Path) -> list[Path]:
    trial = root / "trials" / (crash_trial.KEY + ".part")
    names = ("metrics.journal", ".tmp-result.json", ".tmp-MANIFEST.json")
    return [root / "locks" / crash_trial.KEY, trial, *(trial / name for name in names)]


@pytest.mark.crash
@pytest.mark.parametrize(
    ("call", "error", "code"),
    [("write", "ENOSPC", "disk-full"), ("fsync", "EIO", "storage-failing")],
)
def test_every_failing_write_is_said_and_can_be_continued(tmp_path, call, error, code):
    needs_strace()
    failed = 0
    for number in range(1, 40):
        root = tmp_path / str(number)
        (root / "trials" / (crash_trial.KEY + ".part")).mkdir(parents=True)
        (root / "locks").mkdir()
        done = run_with_fault(root, call, number, error)
        if done.returncode == 0:
            break
        failed += 1
        assert (done.returncode, done.stderr) == (5, "")
        assert f"error[{code}]" in done.stdout
        assert Store(root).find(crash_trial.KEY) is None  # nothing was committed
        recovers(str(root), b"")
    assert done.returncode == 0
    assert failed >= 5


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_the_trial_continues_when_there_is_room(small_disk):
    """Every amount of room from none up: a sentence and exit 5, never damage; then the same
    bytes.
    """
    errors, size = [], os.sysconf("SC_PAGE_SIZE")
    for pages in range(16):
        root = small_disk / "store"
        files.make_folder(root)
        filler = small_disk / "filler"
        with open(filler, "wb", buffering=0) as file:
            free = files.free_bytes(small_disk) - pages * size
            file.write(bytes(max(free, 0)))
        try:
            crash_trial.run(root)
        except ResourceError as error:
            errors.append((error.exit_code, error.code))
        filler.unlink()
        recovers(str(root), b"")
        shutil.rmtree(root)
    assert set(errors) == {(5, "disk-full")}
    assert 3 <= len(errors) < 16


@pytest.mark.parametrize(
    ("name", "code"),
    [("studies/ab12/study.json", "older-format"), ("trials/ab12/result.json", "older-format")],
)
def test_a_store_of_an_older_format_is_refused(store, name, code):
    path = store.root / name
    path.parent.mkdir(parents=True)
    files.write_json(path, {"format": 1, "tlx": "0.1.0"})
    with pytest.raises(BadDataError, match=f"{code}.*format 1.*expected format 2") as caught:
        store.check_format()
    assert caught.value.exit_code == 3
    assert "--store" in caught.value.remedy


def test_a_store_of_this_format_or_without_results_is_accepted(store):
    store.check_format()
    store.write_study("ab12", {})
    store.get_or_compute(KEY, fill)
    store.check_format()


def test_the_format_of_a_large_store_is_known_without_reading_a_whole_record(store, monkeypatch):
    for number in range(20):
        store.write_study(f"{number:04x}", {"trials": ["x" * 1000] * 100})
    store.get_or_compute(KEY, fill)
    monkeypatch.setattr(files, "read_json", lambda *args, **kwargs: pytest.fail("read whole"))
    opened = []
    monkeypatch.setattr(
        "tlx.lab.sealed.format_at_start", lambda path: opened.append(path) or FORMAT
    )
    store.check_format()
    assert {path.name for path in opened} == {"study.json", "result.json"}
    assert len(set(opened)) == 2


@pytest.mark.parametrize(
    "text", ['{"tlx": "0.1", "format": 1}', '\n{ "format" : 1 }', '{"format":12,"tlx":"9"}']
)
def test_another_format_is_seen_however_the_record_is_written(store, text):
    """Also behind a folder whose record is damaged, or not there yet."""
    for key, content in (("aa", None), ("bb", b"\x00"), ("cc", b"[1]"), ("dd", text.encode())):
        folder = store.root / "studies" / key
        folder.mkdir(parents=True)
        if content is not None:
            (folder / "study.json").write_bytes(content)
    with pytest.raises(BadDataError, match="expected format 2"):
        store.check_format()
