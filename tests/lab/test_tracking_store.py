"""Addresses, secrets, and the local database that several programs want to make at once."""

from __future__ import annotations

import logging
import os
import shlex
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import processes
import pytest
from lab import tracked

from tlx.errors import BadDataError, UsageError
from tlx.lab import redaction
from tlx.lab.tracking import api as tracking_api
from tlx.lab.tracking import timeouts as tracking_timeouts

CWD = Path("/somewhere/else")


@pytest.mark.parametrize(
    ("asked", "environ", "uri"),
    [
        (None, {}, "sqlite:////somewhere/else/mlflow.db"),
        ("", {}, "sqlite:////somewhere/else/mlflow.db"),
        ("../mlruns", {}, "sqlite:////somewhere/mlruns/mlflow.db"),
        ("runs/x.db", {}, "sqlite:////somewhere/else/runs/x.db"),
        ("/abs/x.sqlite3", {}, "sqlite:////abs/x.sqlite3"),
        ("sqlite:///rel.db", {}, "sqlite:////somewhere/else/rel.db"),
        ("sqlite:////abs/x.db", {}, "sqlite:////abs/x.db"),
        ("file:///abs/mlruns", {}, "sqlite:////abs/mlruns/mlflow.db"),
        ("http://127.0.0.1:5000/", {}, "http://127.0.0.1:5000"),
        ("postgresql+psycopg2://u:pw@h/db", {}, "postgresql+psycopg2://u:pw@h/db"),
        ("databricks", {}, "databricks"),
        (None, {"MLFLOW_TRACKING_URI": "https://tracker"}, "https://tracker"),
        (
            "here.db",
            {"MLFLOW_TRACKING_URI": "https://tracker"},
            "sqlite:////somewhere/else/here.db",
        ),
    ],
)
def test_an_address_names_a_store(asked, environ, uri):
    assert tracking_api.resolve(asked, environ, CWD).uri == uri


def test_a_folder_that_is_there_is_a_folder_whatever_its_name(tmp_path):
    (tmp_path / "runs.db").mkdir()
    target = tracking_api.resolve("runs.db", {}, tmp_path)
    assert target.database == tmp_path / "runs.db" / "mlflow.db"
    assert target.artifacts == str(tmp_path / "runs.db" / "mlruns")


ODD_NAMES = [
    "50% off",
    "run%2F1",
    "%2e%2e",
    "what?",
    "it's",
    "a#b",
    "ü x",
    "two  spaces",
    "a&b=c",
    "100%",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_database_lies_where_it_was_asked_for_whatever_the_folders_name(tmp_path, name):
    (tmp_path / "work").mkdir()
    folder = tmp_path / "work" / name
    folder.mkdir()
    target = tracking_api.resolve(None, {}, folder)
    tracking_api.prepare(target)
    tracking_api.prepare(target)  # and is found again
    client = tracked.client_of(target)
    run = client.create_run(
        client.create_experiment("x", artifact_location=f"{target.artifacts}/x")
    )
    (tmp_path / "a.txt").write_text("hello")
    client.log_artifact(run.info.run_id, str(tmp_path / "a.txt"))
    assert len(list((folder / "mlruns" / "x").rglob("a.txt"))) == 1
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) == [
        "mlflow.db",
        "mlruns",
    ]
    assert [p.name for p in (tmp_path / "work").iterdir()] == [name], (
        "nothing was written beside it"
    )
    typed = shlex.split(target.to_open(tmp_path))
    assert tracking_api.resolve(typed[-1], {}, tmp_path).database == target.database


@pytest.mark.parametrize(
    "asked", ["bob:s3cr3t@host:5000", "bob:s3cr3t@host", "bob:s3cr3t@host:5000/path", ":s3cr3t@h"]
)
def test_an_address_with_a_password_and_no_scheme_makes_no_folder_and_shows_no_password(
    asked, tmp_path
):
    with pytest.raises(UsageError, match="http://") as error:
        tracking_api.resolve(asked, {}, tmp_path)
    assert "s3cr3t" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_is_full_while_the_database_is_made_is_said(tmp_path):
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tlx.lab.tracking import api as tracking\n"
        "from tlx.errors import TlxError\n"
        "target = tracking.resolve(None, {}, Path(sys.argv[1]))\n"
        "import mlflow.store.tracking.sqlalchemy_store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: tracking.prepare(target)\n"
        "except TlxError as error: print(error); sys.exit(error.exit_code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5, done.stderr
    assert "bytes free" in done.stdout
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".mlflow.db.")] == []


@pytest.mark.parametrize(
    "asked",
    ["ftp://host/x", "htp://host", "localhost:5000", "sqlite://", "sqlite:///:memory:", "http://"],
)
def test_an_address_that_makes_no_sense_is_usage(asked):
    with pytest.raises(UsageError) as error:
        tracking_api.resolve(asked, {}, CWD)
    assert error.value.exit_code == 2
    assert "expected" in str(error.value)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match="no sqlite database"):
        tracking_api.resolve("notes.txt", {}, tmp_path)


def test_what_to_type_to_see_it(tmp_path):
    assert tracking_api.resolve(None, {}, tmp_path).to_open(tmp_path) == "mlflow ui"
    assert tracking_api.resolve("http://u:pw123@h:1", {}, tmp_path).to_open() == "http://***@h:1"
    assert "--backend-store-uri sqlite:///" in tracking_api.resolve("x", {}, tmp_path).to_open(
        tmp_path
    )


# ---------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    "uri",
    [
        "http://bob:s3cr3t@host:5000",
        "https://s3cr3t@host",
        "postgresql://bob:s3cr3t@host/db?sslmode=require",
        "postgresql://bob:s3%2Fcr3t@host/db",
        "http://host/x?access_token=s3cr3t&y=1",
        "http://bob:p@s3cr3t@host",
        "mysql+pymysql://bob:s3cr3t@host/db",
        "mssql://host/db?odbc_connect=UID=x;PWD=s3cr3t",
    ],
)
def test_no_secret_of_an_address_is_shown(uri, monkeypatch):
    monkeypatch.setattr(redaction, "_secrets", set())
    target = tracking_api.resolve(uri, {}, CWD)
    shown = [
        repr(target),
        str(target),
        target.shown,
        target.to_open(),
        tracking_api.redact(f"cannot reach {uri}: no"),
        tracking_api.redact(RuntimeError(f"API request to {uri}/api/2.0 failed")),
    ]
    for text in shown:
        assert "cr3t" not in text, text
    assert target.uri == uri


def test_a_secret_is_hidden_in_every_spelling_and_from_the_environment(monkeypatch):
    monkeypatch.setattr(redaction, "_secrets", set())
    tracking_api.resolve("http://bob:a%2Fb%20c@host", {"MLFLOW_TRACKING_PASSWORD": "hunter2"}, CWD)
    for text in ("a/b c", "a%2Fb%20c", "a%2Fb+c", "hunter2"):
        assert text not in tracking_api.redact(f"<<{text}>>")


@pytest.mark.parametrize(
    "text", ["sqlite:////home/me@work/mlflow.db", "no secret here", "a@b.org wrote", "x = 1"]
)
def test_what_is_no_secret_stays(text, monkeypatch):
    monkeypatch.setattr(redaction, "_secrets", set())
    assert tracking_api.redact(text) == text


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["a", "é", "://", "a://b:", "password", "token=", "@", "a.b-c+"])
def test_redaction_takes_time_in_proportion_to_the_text(piece, monkeypatch):
    monkeypatch.setattr(redaction, "_secrets", set())

    def cpu_s(length):
        begun = time.process_time()
        tracking_api.redact(piece * (length // len(piece)))
        return time.process_time() - begun

    cpu_s(1_000)
    short, long = cpu_s(20_000), cpu_s(200_000)
    assert long < 40 * short + 0.5, "ten times the text: ten times the work, not a hundred times"


def test_a_new_password_is_the_same_store():
    one, two = (
        tracking_api.resolve(f"http://bob:{pw}@host", {}, CWD) for pw in ("first", "second")
    )
    assert one.name == two.name != tracking_api.resolve("http://other", {}, CWD).name


# ---------------------------------------------------------------- the local database

MAKE = (
    "import sys; from tlx.lab.tracking import api as tracking; "
    "tracking.prepare(tracking.resolve(sys.argv[1], {}))"
)


@pytest.mark.slow
def test_four_processes_make_one_database_together(tmp_path):
    makers = [
        processes.Popen(
            [sys.executable, "-c", MAKE, str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for maker in makers:
        _, complaint = maker.communicate(timeout=120)
        assert (maker.returncode, complaint) == (0, "")
    target = tracking_api.resolve(str(tmp_path), {})
    assert tracking_api.check(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]
    with sqlite3.connect(target.database) as db:
        names = [row[0] for row in db.execute("select name from sqlite_master")]
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        assert db.execute("select artifact_location from experiments").fetchall() == [
            (f"{tmp_path}/mlruns/0",)
        ]
    db.close()
    assert not [n for n in names if n.startswith("_alembic_tmp")]


def test_a_database_that_is_there_is_left_alone(local):
    before = local.database.read_bytes()
    tracking_api.prepare(local)
    assert local.database.read_bytes() == before


@pytest.mark.crash
def test_a_killed_builder_leaves_nothing_in_the_way(tmp_path):
    (tmp_path / ".tmp-mlflow.db").write_bytes(b"half")
    (tmp_path / ".tmp-mlflow.db-journal").write_bytes(b"half")
    target = tracking_api.resolve(str(tmp_path), {})
    tracking_api.prepare(target)
    assert tracking_api.check(target)
    assert not list(tmp_path.glob(".tmp-*"))


def half_made(path):
    with sqlite3.connect(path) as db:
        db.execute("create table experiments (x)")
        db.execute("create table _alembic_tmp_tags (x)")
    db.close()


def other_program(path):
    with sqlite3.connect(path) as db:
        db.execute("create table songs (x)")
    db.close()


@pytest.mark.parametrize(
    "spoil",
    [
        half_made,
        other_program,
        lambda p: p.write_bytes(b"no database at all" * 99),
        lambda p: p.write_bytes(b""),
    ],
)
def test_a_broken_database_is_named_with_the_remedy(spoil, tmp_path):
    target = tracking_api.resolve(str(tmp_path / "mlflow.db"), {})
    spoil(target.database)
    os.utime(target.database, (1e9, 1e9))  # nobody is working on it any more
    content = target.database.read_bytes()
    with pytest.raises(BadDataError) as error:
        tracking_api.prepare(target)
    assert "tlx sync" in str(error.value)
    assert target.database.read_bytes() == content, "not ours to remove"


def test_a_database_that_another_program_is_making_is_waited_for(tmp_path, local):
    target = tracking_api.resolve(str(tmp_path / "new" / "mlflow.db"), {})
    target.database.parent.mkdir()
    half_made(target.database)

    def finish():
        time.sleep(0.5)
        os.replace(local.database, target.database)

    other = threading.Thread(target=finish)
    other.start()
    tracking_api.prepare(target)
    other.join()
    assert tracking_api.check(target)


def test_what_a_killed_writer_left_is_rolled_back(local):
    """A hot journal beside the database, as after kill -9 in the middle of a commit."""
    script = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('pragma cache_size = 1')\n"
        "db.execute('begin')\n"
        "db.execute('create table junk (x)')\n"
        "[db.execute('insert into junk values (zeroblob(4000))') for _ in range(50)]\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(local.database)], check=False)
    assert Path(f"{local.database}-journal").exists()
    assert tracking_api.check(local)
    assert not Path(f"{local.database}-journal").exists()


def test_log_levels_are_as_before():
    import mlflow  # noqa: F401

    loggers = [logging.getLogger(name) for name in ("mlflow", "urllib3", "alembic", "sqlalchemy")]
    before = [logger.level for logger in loggers]
    with tracking_timeouts.quiet:
        assert all(logger.level == logging.CRITICAL for logger in loggers)
        with tracking_timeouts.quiet:
            pass
        assert all(logger.level == logging.CRITICAL for logger in loggers), (
            "the outer one is still inside"
        )
    assert [logger.level for logger in loggers] == before
