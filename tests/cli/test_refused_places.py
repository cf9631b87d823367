"""Files where folders are wanted, and places that this user may not use: a sentence each, never a
fault of tlx.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tlx import errors
from tlx.data import csvs

FEW = ("--shots", 1, "--splits", 1, "--val-per-class", 2)
TRAINED = ("fine-tuning", *FEW, "--epochs", 1, "--no-use-crops", "--workers", 0, "--no-tracking")


def joined(words):
    return " ".join(map(str, words))


@pytest.mark.parametrize(
    "words",
    [
        (*TRAINED, "--cache", "afile"),
        (*TRAINED, "--store", "afile"),
        (*TRAINED, "--store", "afile/in"),
        ("extract", "--layers", "last", "--export", "afile"),
        ("splits", "draw", "afile", *FEW),
        ("crops", "afile"),
        ("check", *FEW[:4], "--split-path", "afile"),
        ("extract", "--layers", "last", "--cache", "afile/in"),
    ],
    ids=joined,
)
def test_a_file_where_a_folder_is_wanted_is_said(words, tlx, bars, tmp_path):
    (tmp_path / "afile").write_text("mine")
    code, out, err = tlx(*words, "--dataset", bars)
    assert code in (2, 3, 5), out + err
    assert "afile" in err
    assert "fault in tlx" not in err
    assert (tmp_path / "afile").read_text() == "mine"


@pytest.mark.parametrize(
    "words",
    [
        ("regression", "--out", "afile"),
        ("check", "--dataset", "afile"),
        ("check", "--dataset", "afile/in"),
        ("splits", "check", "afile"),
        ("check", "--data-root", "afile", "--dataset", "cub200"),
    ],
    ids=joined,
)
def test_so_it_is_without_images(words, tlx, tmp_path):
    (tmp_path / "afile").write_text("mine")
    code, out, err = tlx(*words)
    assert code in (2, 3, 5), out + err
    assert "fault in tlx" not in err


@pytest.mark.parametrize("number", errors.REFUSALS)
def test_what_the_system_refuses_is_said_with_the_path(number, tlx, monkeypatch):
    def refuse(*_, **__):
        raise OSError(number, "refused", "/some/place")

    monkeypatch.setattr("tlx.data.datasets.locate", refuse)
    code, _, err = tlx("check", *FEW)
    assert code == errors.REFUSALS[number][0].exit_code
    assert "/some/place" in err
    assert "fault in tlx" not in err


def test_a_csv_that_may_not_be_read_is_one_of_the_problems(tmp_path, monkeypatch):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("d/a/1.png,,1.png,a\n")
    whole = Path.read_bytes

    def read(path):
        if path.name == "a.csv":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    rows, problems = csvs.read(tmp_path / "a.csv")
    assert (rows, [type(problem) for problem in problems]) == ((), [errors.ResourceError])
    assert "a.csv" in str(problems[0])
    assert csvs.read(tmp_path / "b.csv")[1] == []
