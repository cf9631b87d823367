"""The end of a study before a server that says nothing: what is waited for is said, and waiting can
be left.
"""

from __future__ import annotations

import os
import signal
import threading

import pytest
from lab.tracked import Lab

from tlx.lab import signals
from tlx.lab.tasks import Waiting
from tlx.lab.tracking import api as tracking_api


class Silent:
    """A carrier whose server never answers; it returns once it is told to leave off."""

    def __init__(self, abandoned):
        self.abandoned, self.began = abandoned, threading.Event()

    def sweep(self, ending=None):
        return True

    def finish(self, ending):
        self.began.set()
        return not self.abandoned.wait()

    def report(self):
        return tracking_api.Sent(0, 1)

    def close(self):
        pass


@pytest.fixture
def follow(tmp_path, monkeypatch):
    lab = Lab(tmp_path / "root")
    monkeypatch.setattr(tracking_api, "check", lambda target: None)
    monkeypatch.setattr(tracking_api, "NOTICE_S", 0.0)
    monkeypatch.setattr(tracking_api, "POLL_S", 0.001)

    def make(**more):
        mirror = tracking_api.Mirror(
            tracking_api.resolve("http://127.0.0.1:9"), lab.root, lab.study, environ={}, **more
        )
        mirror._sync = Silent(mirror._abandoned)
        return mirror.start()

    return make


def test_a_request_to_stop_leaves_the_rest_to_sync(follow, monkeypatch):
    """The deadline is an hour here: only the signal ends it."""
    monkeypatch.setattr(tracking_api, "STOP_REMOTE_S", 3600.0)
    told = []

    def on_wait(event):
        told.append(event)
        os.kill(os.getpid(), signal.SIGINT)

    with signals.graceful():
        mirror = follow(on_wait=on_wait)
        sent = mirror.stop()
    assert told == [Waiting(3600.0)], "it is said, once"
    assert sent.unsent == 1
    assert "tlx sync" in str(sent)


def test_without_waiting_nothing_is_waited_for_nor_said(follow, monkeypatch):
    monkeypatch.setattr(tracking_api, "STOP_REMOTE_S", 3600.0)
    told = []
    sent = follow(wait=False, on_wait=told.append).stop()
    assert (told, sent.unsent) == ([], 1)


def test_who_has_stopped_a_study_still_has_its_end_told(follow, monkeypatch):
    """The request was made before: it ends the trials, not the delivery of what they came to."""
    monkeypatch.setattr(tracking_api, "STOP_REMOTE_S", 0.2)
    told = []
    with signals.graceful():
        os.kill(os.getpid(), signal.SIGINT)
        follow(on_wait=told.append).stop()
    assert told == [Waiting(0.2)]
