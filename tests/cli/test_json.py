"""JSON of the commands that list and check: all that their text has, and nothing else printed."""

from __future__ import annotations

import json

from tlx.data.catalogue import DATASETS
from tlx.models.backbones import BACKBONES

FEW = ("--shots", 1, "--splits", 2, "--val-per-class", 2)
CHECKED = {
    *("ready", "problems", "notes", "images", "classes", "folder", "splits", "trials", "weights"),
    *("input_size", "blocks", "checked", "estimate"),
}


def read(tlx, *words, code=0):
    left, out, err = tlx(*words, "--json")
    assert left == code, err
    return json.loads(out)


def test_data_sets_are_listed_with_every_field(tlx):
    rows = read(tlx, "datasets")
    assert [row["name"] for row in rows] == list(DATASETS)
    (digits,) = [row for row in rows if row["name"] == "digits"]
    assert digits["classes"] == 10
    assert digits["shots"] == list(DATASETS["digits"].shots)
    assert read(tlx, "datasets", "digits") == digits


def test_backbones_are_listed_and_one_has_its_blocks(tlx):
    rows = read(tlx, "backbones")
    assert {row["name"] for row in rows} == set(BACKBONES)
    (small,) = [row for row in rows if row["name"] == "mnist-cnn"]
    assert (small["input_size"], small["channels"]) == (28, 1)
    whole = read(tlx, "backbones", "mnist-cnn")
    assert {name: whole[name] for name in small} == small
    blocks = whole["blocks"]
    assert [block["number"] for block in blocks] == list(range(1, len(blocks) + 1))
    assert 0 < sum(block["parameters"] for block in blocks) < whole["parameters"]
    _, text, _ = tlx("backbones", "mnist-cnn")
    assert all(block["name"] in text for block in blocks)
    assert f"{whole['parameters']:,} parameters" in text


def test_all_backbones_have_a_name(tlx):
    rows = read(tlx, "backbones", "--all")
    assert len(rows) > len(BACKBONES)
    assert all(row["name"] for row in rows)


def test_a_check_says_that_all_is_ready_and_what_it_takes(tlx, bars):
    record = read(tlx, "check", "--dataset", bars, *FEW, "--no-use-crops")
    assert set(record) == CHECKED
    assert record["ready"] is True
    assert record["problems"] == []
    assert record["trials"] == 2
    assert len(record["classes"]) > 1
    assert record["images"] >= len(record["classes"])
    assert record["estimate"]["seconds"] > 0


def test_a_check_that_fails_has_every_problem_and_the_exit_code(tlx, tmp_path):
    record = read(tlx, "check", "--dataset", tmp_path / "nowhere", *FEW, code=3)
    assert set(record) == CHECKED
    assert record["ready"] is False
    assert record["estimate"] is None
    (problem,) = record["problems"]
    assert problem["code"]
    assert "nowhere" in problem["where"] + problem["what"]
    assert set(problem) == {"code", "where", "what", "expected", "remedy"}


def test_finished_trials_are_printed_where_others_failed(tlx, bars, monkeypatch):
    """One of two draws fails: the other is in the JSON, and the exit code says that not all is."""
    from tlx.errors import BadDataError
    from tlx.studies.fine_tuning import trial

    run = trial.run

    def fail_once(spec, inputs, context):
        if spec.split == 1:
            raise BadDataError("image-broken", "no image", where="photos/a.png")
        return run(spec, inputs, context)

    monkeypatch.setattr(trial, "run", fail_once)
    words = ("--dataset", bars, "--shots", 1, "--splits", 2, "--val-per-class", 2, "--epochs", 1)
    more = ("--no-use-crops", "--workers", 0, "--no-tracking", "--figures", "none", "--json")
    code, out, err = tlx("fine-tuning", *words, *more)
    assert code == 7
    content = json.loads(out)
    assert [row["status"] for row in content["trials"]] == ["finished"]
    (failed,) = content["failed"]
    assert (failed["code"], "photos/a.png" in failed["error"]) == ("image-broken", True)
    assert failed["key"] not in {row["key"] for row in content["trials"]}
    assert "1 of 2 trials failed" in err
