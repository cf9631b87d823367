"""tlx sync leaves with 6 exactly when something was left unsent, and says how much and why."""

from __future__ import annotations

import pytest
from lab.tracked import Lab

from tlx.errors import BadDataError, IntegrityError
from tlx.lab.tracking import api as tracking_api
from tlx.lab.tracking.api import Sent

DEAD = "http://127.0.0.1:9"  # nothing listens there


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (Sent(0, 0), 0),
        (Sent(7, 0), 0),
        (Sent(7, 0, "a refused picture"), 0),
        (Sent(0, 3), 6),
        (Sent(7, 3), 6),
        (Sent(7, 3, "the disk of the server is full"), 6),
        (Sent(7, 0, "", (IntegrityError("manifest", "a flipped bit"),)), 9),
        (Sent(7, 3, "", (BadDataError("foreign", "x"),)), 3),
    ],
)
def test_the_exit_code_says_whether_all_was_sent(tlx, monkeypatch, sent, code):
    monkeypatch.setattr(tracking_api, "sync", lambda root, target: sent)
    found, out, complained = tlx("sync")
    assert found == code
    assert f"{sent.sent} records sent, {sent.unsent} left" in out
    assert ("error[not-delivered]" in complained) == (code == 6)
    if code == 6:
        assert f"{sent.unsent} records not delivered" in complained
        assert sent.problem in complained


@pytest.mark.slow
def test_what_a_dead_server_did_not_take_is_counted_and_nothing_is_wrong_without_records(
    tlx, tmp_path
):
    assert tlx("sync", "--mlflow-path", DEAD, "--store", tmp_path / "empty")[0] == 0
    Lab(tmp_path / "root", 2).finish()
    code, out, complained = tlx("sync", "--mlflow-path", DEAD, "--store", tmp_path / "root")
    assert code == 6
    assert "0 records sent" in out
    assert "run tlx sync again" in complained
    assert tlx("sync", "--store", tmp_path / "root")[0] == 0, "another server takes them"
