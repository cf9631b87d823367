"""Tables and figures of layer transfer, chopped and pruned networks: numbers by hand, and what is
drawn of them.
"""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from tlx.plots import figures
from tlx.plots.statistics import student_t
from tlx.result import DIVERGED, Result
from tlx.studies import transfer_figures
from tlx.studies.chop import figures as chop_figures
from tlx.studies.chop import pruning_report
from tlx.studies.chop import report as chop_report
from tlx.studies.layer_transfer import figures as layer_transfer_figures
from tlx.studies.layer_transfer import report as layer_transfer_report


def trial(key, accuracy, *, status="finished", **spec):
    spec = {
        "copied": 0,
        "freeze": 0,
        "of": "",
        "task": "B",
        "bn": "frozen",
        "depth": 3,
        "split": 0,
    } | spec
    scores = {} if status == DIVERGED else {"test_accuracy": accuracy, "train_s": 2.0}
    return {"key": key, "spec": spec}, Result(
        key=key, kind="layer-transfer", spec=spec, status=status, scores=scores
    )


def rows_of(*trials):
    return layer_transfer_report.table_rows(
        layer_transfer_report.trial_rows(
            {"trials": [row for row, _ in trials]}, {r.key: r for _, r in trials if r is not None}
        )
    )


def some():
    found = []
    for repeat, shift in enumerate((0.0, 0.02, 0.1)):
        found += [
            trial(f"a{repeat}", 0.9, task="A", split=repeat),
            trial(f"b{repeat}", 0.8 + shift, split=repeat),
        ]
        for n in (1, 2, 3):
            for of in "AB":
                for held in (n, 0):
                    found.append(
                        trial(
                            f"{of}{n}{held}{repeat}",
                            0.9 + shift - 0.1 * n,
                            copied=n,
                            freeze=held,
                            of=of,
                            split=repeat,
                        )
                    )
        found.append(
            trial(f"k{repeat}", 0.3 + shift, copied=2, freeze=2, of="A", bn="keras2", split=repeat)
        )
    return found


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({"task": "A"}, [("baseA", None)]),
        ({}, [("baseB", None)]),
        ({"copied": 2, "freeze": 2, "of": "A"}, [("AnB", 2)]),
        ({"copied": 2, "of": "B"}, [("BnB+", 2)]),
        ({"copied": 3, "freeze": 3, "of": "A"}, [("AnB", 3)]),
        ({"copied": 3, "of": "A"}, [("AnB+", 3), ("baseB+", None)]),
        ({"copied": 3, "of": "B"}, [("BnB+", 3)]),
    ],
)
def test_what_a_trial_is(spec, names):
    assert layer_transfer_report.treatments(trial("x", 0.5, **spec)[0]["spec"]) == names


def test_means_intervals_and_paired_differences():
    rows = {(r["treatment"], r["bn"], r["n"]): r for r in rows_of(*some())}
    assert len(rows) == 3 + 4 * 3 + 1
    row = rows["AnB", "frozen", 2]
    values = [0.7, 0.72, 0.8]
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["ci"] == pytest.approx(student_t(2) * np.std(values, ddof=1) / math.sqrt(3))
    assert (row["networks"], row["missing"]) == (3, 0)
    assert row["against_baseB"] == pytest.approx(-0.1)
    assert row["against_baseB_ci"] == pytest.approx(0, abs=1e-9), (
        "each is a tenth below the base of its repeat"
    )
    assert rows["baseB+", "frozen", None]["mean"] == rows["AnB+", "frozen", 3]["mean"]
    assert rows["baseB", "frozen", None]["against_baseB"] is None
    assert rows["AnB", "keras2", 2]["mean"] == pytest.approx(0.34)


def test_what_diverged_or_is_not_there_is_counted_not_scored():
    found = [
        trial("b0", 0.8),
        trial("b1", 0.0, status=DIVERGED, split=1),
        trial("x0", 0.7, copied=1, freeze=1, of="B"),
        (trial("x1", 0.5, copied=1, freeze=1, of="B", split=1)[0], None),
    ]
    rows = {r["treatment"]: r for r in rows_of(*found)}
    assert (rows["baseB"]["networks"], rows["baseB"]["missing"], rows["baseB"]["mean"]) == (
        1,
        1,
        0.8,
    )
    assert (rows["BnB"]["networks"], rows["BnB"]["missing"], rows["BnB"]["ci"]) == (1, 1, None)
    nothing = rows_of(trial("b1", 0.0, status=DIVERGED))
    assert nothing[0]["mean"] is None
    assert "–" in layer_transfer_report.table(nothing)


def test_the_table_has_a_column_for_each_treatment_and_a_line_for_each_base():
    said = layer_transfer_report.table(rows_of(*some()))
    assert said.splitlines()[0].startswith("baseA: 90.0 (90.0 to 90.0)")  # of two networks
    heading = next(line for line in said.splitlines() if line.startswith("n "))
    assert heading.split() == ["n", "BnB", "BnB+", "AnB", "AnB", "keras2", "AnB+"]
    markdown = layer_transfer_report.table(rows_of(*some()), "markdown")
    assert "| n | BnB | BnB+ | AnB | AnB keras2 | AnB+ |" in markdown


def picture(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(-1, 3)


def drawn(data, colour):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(picture(data).astype(int) - wanted).max(axis=1) < 6).sum())


@pytest.mark.slow
def test_every_treatment_is_drawn_in_its_colour_and_the_same_bytes_come_again():
    rows = rows_of(*some())
    data = layer_transfer_figures.layer_transfer(rows, "Title")
    assert data == layer_transfer_figures.layer_transfer(rows, "Title")
    for treatment, (colour, _) in transfer_figures.LOOKS.items():
        assert drawn(data, colour) > 100, treatment
        without = [row for row in rows if row["treatment"] != treatment]
        lost = drawn(data, colour) - drawn(
            layer_transfer_figures.layer_transfer(without, "Title"), colour
        )
        assert lost > 100, treatment


@pytest.mark.parametrize("keep", [1, 2])
def test_one_repeat_or_one_depth_is_drawn_too(keep):
    few = [
        (row, r)
        for row, r in some()
        if row["spec"]["split"] == 0 and row["spec"]["copied"] in (0, keep)
    ]
    assert len(layer_transfer_figures.layer_transfer(rows_of(*few))) > 5000
    svg = layer_transfer_figures.layer_transfer(rows_of(*some()), form="svg")
    assert svg.startswith(b"<?xml")


# ---------------------------------------------------------------- chopped and pruned


def cut(n, split, test, val, size):
    scores = {
        "test_accuracy": test,
        "best_val_accuracy": val,
        "parameters": size,
        "numbers": size + 1,
        "macs": 10 * size,
        "weights_bytes": 4 * size,
        "training_bytes": 8 * size,
    }
    return Result(key=f"{n}{split}", kind="chop", spec={"cut": n, "split": split}, scores=scores)


def test_cuts_in_order_with_their_times():
    found = [
        cut(None, 0, 0.9, 0.95, 300),
        cut(2, 0, 0.8, 0.9, 200),
        cut(1, 0, 0.5, 0.6, 100),
        cut(2, 1, 0.9, 0.94, 200),
    ]
    rows = chop_report.table_rows(
        found, {"seconds": {"2": {"1": 0.004, "64": 0.001}, "whole": {"1": 0.005}}}
    )
    assert [row["n"] for row in rows] == [1, 2, None]
    assert (rows[1]["mean"], rows[1]["val"]) == (pytest.approx(0.85), pytest.approx(0.92))
    assert rows[1]["latency_batch1_s"] == 0.004
    assert rows[0]["latency_batch1_s"] is None
    text = chop_report.table(rows)
    assert "4 ms" in text
    assert "whole" in text
    data = chop_figures.chop(rows, "Chopped")
    assert data == chop_figures.chop(rows, "Chopped")
    assert drawn(data, figures.BLUE) > 100


def test_rounds_in_order():
    found = [
        Result(
            key=f"{k}{s}",
            kind="pruning",
            spec={"round": k, "split": s, "keep": 0.5, "scope": "global", "rewind": "none"},
            status=DIVERGED if (k, s) == (2, 1) else "finished",
            scores={
                "test_accuracy": 0.9 - 0.1 * k,
                "best_val_accuracy": 0.9,
                "kept": 0.5**k,
                "nonzero": 100,
                "parameters": 200,
            },
        )
        for k in (2, 0, 1)
        for s in (0, 1)
    ]
    rows = pruning_report.pruned_rows(found)
    assert [(row["round"], row["kept"], row["networks"]) for row in rows] == [
        (0, 1.0, 2),
        (1, 0.5, 2),
        (2, 0.25, 1),
    ]
    assert rows[2]["missing"] == 1
    assert "25.00 %" in pruning_report.pruned_table(rows)
    assert drawn(chop_figures.pruning(rows, "Pruned"), figures.BLUE) > 100


def test_the_originals_table_has_networks_and_blocks_of_the_usual_batch_norm():
    rows = layer_transfer_report.original_rows(rows_of(*some()))
    assert [row[:2] for row in rows] == [
        ["baseA", ""],
        ["baseB", ""],
        ["baseB+", ""],
        *([name, n] for name in ("BnB", "BnB+", "AnB", "AnB+") for n in (1, 2, 3)),
    ]
    table = {(network, block): accuracy for network, block, accuracy in rows}
    assert table["AnB", 2] == pytest.approx(0.7 + 0.04)
    assert table["baseA", ""] == pytest.approx(0.9)
