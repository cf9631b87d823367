"""One store for everything: every command runs where studies of every kind have been, and sync
shows them all.
"""

from __future__ import annotations

import pytest
from cli.test_image_rules import COMMANDS, ask

from tlx.lab.store import Store

WITHOUT_STUDY = {"check", "splits draw", "extract", "crops"}


@pytest.mark.e2e
def test_every_command_runs_in_a_store_that_holds_every_kind_of_study(tlx, bars, tmp_path):
    for round_ in (list(COMMANDS), list(reversed(COMMANDS))):
        for name in round_:
            code, out, complained = ask(tlx, name, bars)
            assert code == 0, f"{name}: {complained or out}"
    store = Store(tmp_path / "tlx-runs")
    kinds = {store.read_study(key)["experiment"] for key in store.studies()}
    assert len(kinds) >= len(COMMANDS.keys() - WITHOUT_STUDY) - 1, (
        "chop and prune may share an experiment"
    )
    code, out, complained = tlx("sync")
    assert code == 0, complained or out
    assert "0 left" in out
    assert "0 records sent, 0 left" in tlx("sync")[1], "all is there"
