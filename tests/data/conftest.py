"""What the tests of the data floor share."""

from __future__ import annotations

import pytest


@pytest.fixture
def put(tmp_path):
    """Write bytes under a name and return the path."""

    def write(data, name="a.png"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write
