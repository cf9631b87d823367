"""Fixtures of the tests of studies."""

from __future__ import annotations

import pytest
from lab import clusters


@pytest.fixture(scope="module", params=clusters.CHOSEN)
def cluster(request, tmp_path_factory):
    """A cluster of a module's tests: two nodes with a slot each."""
    kinds = {kind.engine: kind for kind in clusters.KINDS}
    if request.param not in kinds:
        pytest.skip(f"TLX_TEST_ENGINES leaves {request.param} out")
    result = kinds[request.param](tmp_path_factory.mktemp("cluster"))
    result.restore()
    yield result
    result.close()
