"""log T ~ G + D + log N: against numpy's least squares and normal equations, the shipped table, and
bad tables.
"""

from __future__ import annotations

import csv
import math
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from tlx.errors import BadDataError, ErrorGroup
from tlx.metrics import regression
from tlx.metrics.regression import transferability_regression, transferability_table

NAMES = ["intercept", "G", "D", "log_N"]


def rows_of(g, d, n, t):
    return [{"G": a, "D": b, "N": c, "T": e} for a, b, c, e in zip(g, d, n, t, strict=True)]


def design(rows, standardize):
    x = np.array([[r["G"], r["D"], math.log(r["N"])] for r in rows], float)
    if standardize:
        x = (x - [np.mean(c) for c in x.T]) / [np.std(c) for c in x.T]
    return np.insert(x, 0, 1, axis=1), np.array([math.log(r["T"]) for r in rows])


def naive(rows, standardize):
    """Coefficients, standard errors, R², and the prediction of each row by a fit to the others."""
    x, y = design(rows, standardize)
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    error = y - x @ beta
    covariance = (error @ error) / (len(y) - 4) * np.linalg.pinv(x.T @ x)
    others = [
        np.linalg.lstsq(np.delete(x, i, 0), np.delete(y, i), rcond=None)[0] for i in range(len(y))
    ]
    predicted = np.array([row @ b for row, b in zip(x, others, strict=True)])
    total = np.sum((y - y.mean()) ** 2)
    r2, left_out = (1 - np.sum(miss**2) / total for miss in (error, y - predicted))
    return beta, np.sqrt(np.diag(covariance)), r2, left_out, error


def draw(seed, n=14, noise=0.3):
    rng = np.random.default_rng(seed)
    g, d, logs = rng.uniform(0, 10, n), rng.uniform(0, 1, n), rng.uniform(6, 12, n)
    return rows_of(
        g,
        d,
        np.exp(logs),
        np.exp(1 - 0.1 * g + 0.5 * d - 0.6 * logs + noise * rng.standard_normal(n)),
    )


def check(found, rows, standardize):
    beta, errors, r2, left_out, residuals = naive(rows, standardize)
    assert list(found.coefficients) == NAMES
    assert list(found.coefficients.values()) == pytest.approx(beta, rel=1e-8, abs=1e-10)
    assert list(found.standard_errors.values()) == pytest.approx(errors, rel=1e-8)
    assert found.r2 == pytest.approx(r2, abs=1e-10)
    assert found.loo_r2 == pytest.approx(left_out, rel=1e-7, abs=1e-9)
    np.testing.assert_allclose(found.residuals, residuals, atol=1e-10)
    np.testing.assert_allclose(
        found.fitted + found.residuals, [math.log(r["T"]) for r in rows], atol=1e-12
    )
    for name, b, e in zip(NAMES, beta, errors, strict=True):
        assert found.t[name] == pytest.approx(b / e, rel=1e-7, abs=1e-9)
        assert found.p[name] == pytest.approx(
            2 * stats.t.sf(abs(b / e), len(rows) - 4), rel=1e-6, abs=1e-14
        )
        low, high = stats.t.interval(0.95, len(rows) - 4, b, e)
        assert (found.low[name], found.high[name]) == (
            pytest.approx(low, abs=1e-8),
            pytest.approx(high, abs=1e-8),
        )
    assert (found.n, found.degrees, found.standardize) == (len(rows), len(rows) - 4, standardize)


@pytest.mark.parametrize("standardize", [True, False])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**20), n=st.integers(6, 30))
def test_against_least_squares(standardize, seed, n):
    rows = draw(seed, n)
    assume(np.linalg.cond(design(rows, True)[0]) < 1e3)
    check(transferability_regression(rows, standardize=standardize), rows, standardize)


# ---------------------------------------------------------------- the shipped table


def test_the_table_is_the_published_one(request):
    table = transferability_table()
    assert [r["dataset"] for r in table if r["corrected"]] == [
        "DomainNet-r",
        "DomainNet-p",
        "DomainNet-c",
    ]
    assert [r["T"] for r in table] == [
        7.79,
        5.59,
        23.92,
        21.96,
        12.45,
        106.30,
        39.09,
        53.58,
        24.15,
        6.32,
        7.12,
        8.91,
    ]
    assert [r["N"] for r in table] == [
        50000,
        50000,
        3060,
        5994,
        6667,
        1088,
        1680,
        1692,
        1880,
        120906,
        50416,
        33525,
    ]
    assert [r["G"] for r in table] == [
        2.27,
        2.39,
        0.63,
        1.62,
        2.95,
        1.64,
        1.89,
        13.12,
        0.74,
        1.45,
        0.47,
        6.56,
    ]
    assert [r["D"] for r in table] == [
        0.665,
        0.075,
        0.087,
        0.042,
        0.064,
        0.449,
        0.364,
        1.2,
        0.213,
        0.027,
        0.027,
        0.027,
    ]
    for row in table:
        printed = (row["printed_G"], row["printed_D"])
        assert (printed == (row["G"], row["D"])) != row["corrected"]
    assert [(r["printed_G"], r["printed_D"]) for r in table[9:]] == [
        (0.027, 467.7),
        (0.027, 455.5),
        (0.027, 823.2),
    ]


def test_the_table_against_the_readme_of_the_original(shared_data):
    texts = [p.read_text() for p in sorted((shared_data.parent / "seeds").glob("*.txt"))]
    text = next((t for t in texts if "Intraclass variance" in t), None)
    if text is None:
        pytest.skip("the original's README is not here")
    printed = re.findall(
        r"^([\w ]+-?[\w]*) \| ([\d.]+) \| ([\d.]+) \| ([\d,]+) \| ([\d.]+) \|", text, re.M
    )
    table = transferability_table()
    assert [
        (n, float(g), float(d), float(c.replace(",", "")), float(t)) for n, g, d, c, t in printed
    ] == [(r["dataset"], r["printed_G"], r["printed_D"], r["N"], r["T"]) for r in table]
    law = (
        r"=(-[\d.]+) \\mathcal\{G\} \+ ([\d.]+) \\mathcal\{D\} - ([\d.]+) log\(.*?\) \+ ([\d.]+)\$"
    )
    found = re.findall(law, text)
    assert [tuple(map(float, f)) for f in found] == [
        (c["G"], c["D"], -c["log_N"], c["intercept"]) for c in regression.PUBLISHED.values()
    ]


def test_the_corrected_table():
    rows = transferability_table()
    found = transferability_regression(rows)
    assert [round(v, 3) for v in found.coefficients.values()] == [2.838, -0.049, 0.189, -0.773]
    assert round(found.r2, 3) == 0.893
    assert found.coefficients["intercept"] == pytest.approx(
        np.mean([math.log(r["T"]) for r in rows]), rel=1e-12
    )
    check(found, rows, True)
    logs = np.log([[r["N"], r["T"]] for r in rows]).T
    assert np.corrcoef(logs)[0, 1] == pytest.approx(-0.93, abs=0.005)
    assert found.loo_r2 == pytest.approx(0.7576301, abs=1e-6)


@pytest.mark.parametrize("standardize", [True, False])
def test_the_table_without_the_corrected_rows_and_as_printed(standardize):
    rows = [r for r in transferability_table() if not r["corrected"]]
    found = transferability_regression(rows, standardize)
    assert found.n == 9
    check(found, rows, standardize)
    printed = [r | {"G": r["printed_G"], "D": r["printed_D"]} for r in transferability_table()]
    found = transferability_regression(printed, standardize)
    check(found, printed, standardize)
    if not standardize:
        assert (
            round(found.coefficients["intercept"], 1) == 7.7
        )  # so the published 2.86 is not of raw columns


# ---------------------------------------------------------------- what must hold


def test_an_exact_law_is_found():
    found = transferability_regression(draw(0, noise=0.0), standardize=False)
    assert found.coefficients == pytest.approx(
        {"intercept": 1, "G": -0.1, "D": 0.5, "log_N": -0.6}, abs=1e-9
    )
    assert found.r2 == pytest.approx(1)
    assert found.loo_r2 == pytest.approx(1)


def test_z_scores_are_another_unit_of_the_same_fit():
    rows = draw(1)
    raw, scored = (transferability_regression(rows, s) for s in (False, True))
    np.testing.assert_allclose(raw.fitted, scored.fitted, atol=1e-12)
    assert (raw.r2, raw.loo_r2) == (scored.r2, scored.loo_r2)
    for name in NAMES[1:]:
        assert scored.coefficients[name] == pytest.approx(
            raw.coefficients[name] * raw.deviations[name]
        )
        assert scored.t[name] == pytest.approx(raw.t[name])
        assert scored.p[name] == pytest.approx(raw.p[name])
    assert raw.means["log_N"] == pytest.approx(np.mean([math.log(r["N"]) for r in rows]))


def test_logarithms_are_natural_and_units_do_not_matter():
    rows = draw(2)
    found = transferability_regression(rows)
    thousands = transferability_regression(
        [r | {"N": r["N"] / 1000, "T": 10 * r["T"], "G": 7 * r["G"]} for r in rows]
    )
    for name in NAMES[1:]:
        assert thousands.coefficients[name] == pytest.approx(found.coefficients[name], rel=1e-9)
    assert thousands.coefficients["intercept"] == pytest.approx(
        found.coefficients["intercept"] + math.log(10)
    )


def test_the_order_of_rows_and_other_columns_do_not_matter():
    rows = transferability_table()
    assert transferability_regression(rows[::-1]).coefficients == pytest.approx(
        transferability_regression(rows_of(*([r[c] for r in rows] for c in "GDNT"))).coefficients
    )


def test_far_offsets_lose_nothing():
    rows = draw(3)
    far = transferability_regression([r | {"G": 1e6 + r["G"]} for r in rows], standardize=False)
    near = transferability_regression(rows, standardize=False)
    assert far.coefficients["G"] == pytest.approx(near.coefficients["G"], rel=1e-7)
    assert far.standard_errors["D"] == pytest.approx(near.standard_errors["D"], rel=1e-7)


# ---------------------------------------------------------------- what is taken


class Frame:
    """As much of a data frame as is asked of one."""

    def __init__(self, rows):
        self.columns = list(rows[0])
        self.rows = rows

    def __getitem__(self, name):
        return np.array([r[name] for r in self.rows])


def test_rows_frames_and_columns(tmp_path):
    rows = draw(4)
    expected = transferability_regression(rows).coefficients
    assert transferability_regression(Frame(rows)).coefficients == expected
    assert (
        transferability_regression({c: [r[c] for r in rows] for c in "GDNT"}).coefficients
        == expected
    )
    assert transferability_regression(r for r in rows).coefficients == expected
    with open(tmp_path / "t.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, "GDNT")
        writer.writeheader()
        writer.writerows(rows)
    with open(tmp_path / "t.csv", newline="") as file:
        assert transferability_regression(csv.DictReader(file)).coefficients == expected


def test_a_real_data_frame():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed; tlx does not need it")
    rows = draw(5)
    assert (
        transferability_regression(pandas.DataFrame(rows)).coefficients
        == transferability_regression(rows).coefficients
    )


def test_a_row_that_alone_decides_a_term():
    rows = [r | {"D": 0.0} for r in draw(6)]
    rows[3]["D"] = 1.0
    found = transferability_regression(rows)
    assert found.loo_r2 is None
    assert found.residuals[3] == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------- what is refused


def changed(i, **values):
    rows = draw(7)
    rows[i].update(values)
    return rows


BAD = [
    (lambda: changed(2, T=0), ["table-value", "T is 0 in row 3", "positive"]),
    (lambda: changed(0, N=-5), ["table-value", "N is -5 in row 1", "positive"]),
    (lambda: changed(1, G=math.nan), ["table-value", "G is nan in row 2", "finite"]),
    (lambda: changed(1, D=math.inf), ["table-value", "D is inf in row 2"]),
    (lambda: changed(1, T=None), ["table-value", "T is None in row 2"]),
    (lambda: changed(1, N="many"), ["table-value", "N is 'many' in row 2"]),
    (lambda: draw(0, n=4), ["too-few-rows", "4 rows", "at least 5"]),
    (lambda: [], ["too-few-rows", "0 rows"]),
    (lambda: [{"G": 1, "D": 2, "N": 3}] * 6, ["table-columns", "no T in row 1"]),
    (lambda: Frame([{"G": 1, "W": 2}] * 6), ["table-columns", "no D, N, T among G, W"]),
    (lambda: [(1, 2, 3, 4)] * 6, ["table-row", "row 1 is a tuple"]),
    (lambda: {"G": [1, 2], "D": [1], "N": [1, 2], "T": [1, 2]}, ["too-few-rows"]),
    (lambda: [r | {"D": 0.3} for r in draw(0)], ["no-variation", "D is the same"]),
    (lambda: [r | {"N": 50_000} for r in draw(0)], ["no-variation", "log_N is the same"]),
    (lambda: [r | {"T": 1.0} for r in draw(0)], ["no-variation", "T is the same"]),
    (lambda: [r | {"D": 2 * r["G"] - 1} for r in draw(0)], ["collinear", "D is a sum"]),
    (
        lambda: [r | {"D": 0.1 * r["G"] + 3 * math.log(r["N"])} for r in draw(0)],
        ["collinear", "log_N is a sum"],
    ),
]


@pytest.mark.parametrize(("make", "words"), BAD, ids=[f"{i}-{b[1][0]}" for i, b in enumerate(BAD)])
@pytest.mark.parametrize("standardize", [True, False])
def test_what_cannot_be_fitted_is_named(make, words, standardize):
    with pytest.raises(BadDataError) as refused:
        transferability_regression(make(), standardize)
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_all_bad_values_at_once():
    rows = changed(2, T=0, G=math.nan)
    with pytest.raises(ErrorGroup, match=r"(?s)G is nan in row 3.*T is 0 in row 3"):
        transferability_regression(rows)


def test_just_enough_rows():
    rows = draw(8, n=5)
    check(transferability_regression(rows), rows, True)
