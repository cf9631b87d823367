"""The command that a record keeps: as it was typed, without secrets and addresses of clusters."""

from __future__ import annotations

import sys

import pytest

from tlx.studies.summaries import command_line


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (["tlx", "quanta", "--out", "my tables"], "tlx quanta --out 'my tables'"),
        (["/usr/bin/tlx", "--address", "tcp://head:8786", "-d", "x"], "tlx --address ADDRESS -d x"),
        (["tlx", "--address=head:6379"], "tlx --address=ADDRESS"),
        (["tlx", "--address"], "tlx --address"),
        (["tlx", "--storage", "postgresql://me:pw@db/x"], "tlx --storage postgresql://***@db/x"),
        (["ipykernel_launcher.py", "-f", "x"], ""),
        ([], ""),
    ],
)
def test_a_record_keeps_the_command_without_secrets(monkeypatch, typed, kept):
    monkeypatch.setattr(sys, "argv", typed)
    assert command_line() == kept
