"""Maps: distances of points come out as they went in, and the same map every time."""

from __future__ import annotations

import numpy as np
import pytest

from tlx.errors import BadDataError, UsageError
from tlx.metrics.comparison import compare_all
from tlx.metrics.mds import mds


def distances(points):
    return np.sqrt(((points[:, None] - points) ** 2).sum(axis=2))


@pytest.mark.parametrize("smacof", [False, True])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("m", [4, 12])
def test_points_of_a_space_are_found_again(m, dimensions, smacof):
    points = np.random.default_rng(m).standard_normal((m, dimensions)) * [5, 2, 1][:dimensions]
    found = mds(distances(points), dimensions, smacof=smacof)
    np.testing.assert_allclose(distances(found.points), distances(points), atol=1e-6)
    assert found.stress < 1e-7
    np.testing.assert_allclose(found.points.mean(axis=0), 0, atol=1e-12)
    spread = found.points.T @ found.points
    np.testing.assert_allclose(spread, np.diag(np.diag(spread)), atol=1e-6)
    assert (np.diff(np.diag(spread)) <= 0).all()
    for axis in found.points.T:
        assert axis[np.abs(axis).argmax()] > 0
    turned = mds(distances(points[::-1])[np.triu_indices(m, 1)], dimensions, smacof=smacof)
    np.testing.assert_allclose(turned.points[::-1], found.points, atol=1e-6)


def test_a_known_map():
    """Three items in a row: 0, 1 and 3."""
    found = mds([1, 3, 2.0], 1)
    np.testing.assert_allclose(found.points[:, 0], [-4 / 3, -1 / 3, 5 / 3], atol=1e-12)


def test_stress_of_what_fits_no_plane():
    square = 1 - np.eye(6)  # six items, each as far from each
    classical, least = mds(square), mds(square, smacof=True)
    away = distances(classical.points)[np.triu_indices(6, 1)]
    assert classical.stress == pytest.approx(np.sqrt(((away - 1) ** 2).sum() / 15))
    assert least.stress < classical.stress
    assert mds(square, 5).stress == pytest.approx(0, abs=1e-7)
    assert mds(square, smacof=True).points.tolist() == least.points.tolist()


def test_similarities_of_layers():
    rng = np.random.default_rng(0)
    first, other = rng.random(45), rng.random(45)
    rdms = {"a": first, "b": first + 0.05 * rng.random(45), "c": other, "d": np.round(other, 1)}
    for method in ("spearman", "kendall", "rho-a"):  # with itself, "d" is not 1 by the last two
        points = mds(compare_all(rdms, method)).points
        away = distances(points)
        assert away[0, 1] < 0.5 * away[0, 2]
        assert away[2, 3] < 0.5 * away[1, 3]


def test_nothing_differs():
    assert mds(np.zeros((4, 4)), smacof=True).points.tolist() == [[0, 0]] * 4
    assert mds(np.zeros((4, 4))).stress == 0


def test_what_has_no_map():
    with pytest.raises(BadDataError, match=r"negative\] dissimilarities: a dissimilarity of -0.1"):
        mds([1, -0.1, 2])
    for dimensions in (0, 3):
        with pytest.raises(UsageError, match="1 to 2"):
            mds([1, 1, 2.0], dimensions)
    with pytest.raises(BadDataError, match="rdm-not-symmetric"):
        mds(np.eye(3))
