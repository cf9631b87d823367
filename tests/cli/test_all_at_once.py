"""tlx check says everything that is wrong at once: images, CSVs and crops, whatever else is
wrong.
"""

from __future__ import annotations

import pytest
from conftest import draw_images

FEW = ("--shots", 1, "--splits", 1, "--val-per-class", 2)
GIVEN = FEW[:4]  # beside splits that are given


@pytest.fixture
def drawn(tlx, tmp_path):
    """A data set and splits of it that may be edited."""
    data = draw_images(tmp_path / "data", per_class=6)
    assert tlx("splits", "draw", "csvs", "--dataset", data, *FEW)[0] == 0
    (tmp_path / "csvs" / "splits.json").unlink()
    return data, tmp_path / "csvs"


def test_faults_of_csvs_are_said_beside_broken_images(tlx, drawn):
    data, csvs = drawn
    (data / "train" / "bar0" / "broken.png").write_bytes(b"no image")
    rows = (csvs / "val.csv").read_text().splitlines()
    (csvs / "val.csv").write_text("\n".join(["too,few", *rows[1:]]) + "\n")
    code, _, err = tlx("check", "--dataset", data, "--split-path", csvs, *GIVEN)
    assert code == 3
    assert "not-an-image" in err
    assert "csv-fields" in err


def test_leaks_by_path_are_said_beside_broken_images(tlx, drawn):
    data, csvs = drawn
    (data / "train" / "bar0" / "broken.png").write_bytes(b"no image")
    (csvs / "val.csv").write_text((csvs / "train_samples_01_split_0.csv").read_text())
    code, _, err = tlx("check", "--dataset", data, "--split-path", csvs, *GIVEN)
    assert code == 3
    assert "not-an-image" in err
    assert "error[leak]" in err
    assert "leak-suspected" not in err


def test_faults_of_csvs_are_said_where_there_are_no_images(tlx, drawn, tmp_path):
    (drawn[1] / "val.csv").write_text("too,few\n")
    code, _, err = tlx("check", "--dataset", tmp_path / "nowhere", "--split-path", drawn[1], *GIVEN)
    assert code == 3
    assert "image folder not found" in err
    assert "csv-fields" in err


def test_crops_made_elsewhere_are_checked(tlx, drawn, tmp_path):
    data, csvs = drawn
    words = (
        "check",
        "--dataset",
        data,
        "--split-path",
        csvs,
        *GIVEN,
        "--precomputed-crops",
        "crops",
    )
    assert tlx("crops", "crops", "--dataset", data, "--size", 28)[0] == 0
    code, out, err = tlx(*words)
    assert (code, "ready" in out) == (0, True), err
    crops = sorted((tmp_path / "crops" / "test").rglob("*_crop_*.png"))
    crops[0].write_bytes(b"no image")
    code, _, err = tlx(*words)
    assert code == 3
    assert crops[0].name in err
    crops[0].unlink()
    (data / "train" / "bar0" / "broken.png").write_bytes(b"no image")
    code, _, err = tlx(*words)
    assert code == 3
    assert "crops-missing" in err
    assert "not-an-image" in err, "everything at once"


def test_many_faults_of_one_kind_do_not_hide_another(tlx, drawn):
    data, csvs = drawn
    for number in range(40):
        (data / "train" / "bar0" / f"broken{number}.png").write_bytes(b"no image")
    (csvs / "val.csv").write_text("too,few\n")
    code, _, err = tlx("check", "--dataset", data, "--split-path", csvs, *GIVEN)
    assert code == 3
    assert "csv-fields" in err
    assert "and 30 more error[not-an-image]" in err
