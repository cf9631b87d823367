"""Every figure that a test here draws is held to the rules of figures."""

from __future__ import annotations

import figure_rules
import pytest


@pytest.fixture(autouse=True)
def every_figure_is_whole(monkeypatch):
    with figure_rules.held(monkeypatch):
        yield
