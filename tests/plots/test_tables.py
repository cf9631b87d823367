"""Tables that line up, read back, and do nothing in a spreadsheet or a page."""

from __future__ import annotations

import csv
import io

import pytest

from tlx.plots import statistics, tables

ROWS = statistics.by_shots(
    [
        {"shots": k, "test_accuracy": 0.1 * k + 0.01 * s, "train_s": 40.0 * k}
        for k in (1, 5)
        for s in range(3)
    ]
    + [{"shots": 7, "test_accuracy": 0.9}]
)


def test_text_columns_line_up():
    lines = tables.few_shot(ROWS).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["1", "5", "7"]
    assert len({line.rstrip().rfind("%") for line in lines[2:]} - {-1}) == 1
    assert "3 min 20 s" in lines[3]
    assert "failed" not in lines[0], "a column of zeros says nothing"


def test_a_single_split_shows_a_dash_not_an_interval():
    assert tables.few_shot(ROWS).splitlines()[4].count(tables.NOTHING) == 2  # no interval, no time


def test_trials_without_a_score_are_counted():
    rows = statistics.by_shots([{"shots": 1, "test_accuracy": 0.5}, {"shots": 1}])
    assert "failed" in tables.few_shot(rows)


def test_csv_reads_back_in_full_precision():
    back = list(csv.DictReader(io.StringIO(tables.few_shot(ROWS, "csv"))))
    assert [float(r["mean_test_accuracy"]) for r in back] == [r["mean"] for r in ROWS]
    assert back[2]["ci95_half_width"] == ""


@pytest.mark.parametrize("evil", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", " =1", "＝1"])
def test_csv_cells_are_no_formulas(evil):
    heading, cell = list(csv.reader(io.StringIO(tables.as_csv([evil], [[evil]]), newline="")))
    assert heading == cell == ["'" + evil]
    assert tables.as_csv(["x"], [[-0.5]]) == "x\n-0.5\n", "a number stays a number"


@pytest.mark.parametrize("control", ["\t=1", "\r=1", "a\r=1", "a\n=1", "\x00=1"])
def test_csv_cells_hold_no_control_characters(control):
    assert list(csv.reader(io.StringIO(tables.as_csv(["x"], [[control]]), newline="")))[1] == [
        ascii(control)[1:-1]
    ]


def test_markdown_cells_cannot_leave_their_cell():
    table = tables.as_markdown(["class"], [["a|b\n| c | <script>\x1b[31m"]])
    assert table.count("\n") == 3
    assert "<script>" not in table
    assert "\x1b" not in table
    assert "a\\|b" in table


def test_wide_letters_line_up():
    lines = tables.as_text(["名前", "n"], [["猫", 1], ["abc", 22]]).splitlines()
    assert lines[2] == "猫     1"
    assert lines[3] == "abc   22"


def test_an_empty_table_has_its_headings():
    assert tables.few_shot([]).startswith("shots")
    assert tables.few_shot([], "csv").startswith("shots,")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (7260, "2 h 01 min"),
    ],
)
def test_durations(value, shown):
    assert tables.seconds(value) == shown


def rows_with(*over):
    """A row of each kind of interval."""
    intervals = {
        k: statistics.MeanInterval(name, 0.4, 0.6, 0.1, 7.0)
        for k, name in enumerate(over, 1)
        if name
    }
    trials = [
        {"shots": k, "test_accuracy": 0.5 + 0.01 * s}
        for k, name in enumerate(over, 1)
        for s in range(1 if name == statistics.IMAGES else 4)
    ]
    return statistics.by_shots(trials, intervals=intervals)


def test_what_intervals_are_over_is_a_column_where_it_differs():
    both, alone = statistics.DRAWS_AND_IMAGES, ""
    mixed = tables.few_shot(rows_with(both, alone)).splitlines()
    assert "over" in mixed[0].split()
    assert "draws alone" in mixed[0]
    assert "draws and images" in mixed[2]
    assert mixed[3].count("± 2.1") == 2, "Student's t, as the interval and in its own column"
    same = tables.few_shot(rows_with(both, both)).splitlines()
    assert "draws and images" not in "".join(same)
    assert "draws alone" in same[0]
    old = tables.few_shot(rows_with(alone, alone)).splitlines()
    assert "draws alone" not in old[0]


def test_one_draw_is_marked():
    text = tables.few_shot(rows_with(statistics.IMAGES))
    assert "± 10.0 (images)" in text


def test_a_table_for_a_terminal_fits_it():
    rows = rows_with(statistics.DRAWS_AND_IMAGES, statistics.DRAWS_AND_IMAGES)
    for row in rows:
        row.update(val=0.5, train_s=100.0)
    assert max(map(len, tables.few_shot(rows).splitlines())) <= 80
