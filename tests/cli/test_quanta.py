"""tlx quanta as a user runs it: from the command to the original's files; what is wrong in one
line.
"""

from __future__ import annotations

import json

import pytest

QUICK = ("--epochs", 1, "--val-per-class", 2, "--workers", 0, "--no-tracking")


@pytest.mark.slow
def test_from_images_to_the_originals_files(tlx, bars, tmp_path):
    code, out, err = tlx("quanta", "-d", bars, "-l", "0,-1", "-r", 2, "-o", "expe", *QUICK)
    assert (code, err) == (0, "")
    assert "mnist to bars, mnist-cnn: 6 trials" in out
    assert "none (witness)" in out
    names = {p.name for p in (tmp_path / "expe" / "mnist_to_bars" / "layer_0").iterdir()}
    assert names - {"expe_summary.txt"} == {
        f"{r}{end}.txt" for r in (0, 1) for end in ("", "_raw")
    } | {f"{words}_metrics_of_target_{r}.txt" for r in (0, 1) for words in ("training", "testing")}
    assert json.loads(
        (tmp_path / "expe" / "mnist_to_bars" / "quantas_r_1_l_all.jsonl").read_text()
    ).keys() == {"0", "1", "2"}
    code, out, _ = tlx(
        "quanta",
        "--dataset",
        bars,
        "--positions",
        "co,0",
        "--repeats",
        2,
        "--export",
        "again",
        *QUICK,
    )
    assert code == 0
    assert "6 of them found done" in out
    a, b = (
        (tmp_path / name / "mnist_to_bars" / "layer_all" / "1.txt").read_bytes()
        for name in ("expe", "again")
    )
    assert a == b


@pytest.mark.slow
def test_the_originals_own_words_give_its_own_files(tlx, bars, tmp_path):
    words = ("--outdir=expe", "--repeat=1", "-l=1", f"--targetTask={bars}", "--seed=3")
    code, _, err = tlx("quanta", *words, *QUICK)
    assert (code, err) == (0, "")
    assert (tmp_path / "expe" / "0.txt").is_file()
    assert "Layer: 1\n" in (tmp_path / "expe" / "expe_summary.txt").read_text()
    code, _, err = tlx("quanta", *words, "--layer=2", *QUICK)
    assert code == 2
    assert "another experiment" in err


def test_networks_and_gates_are_shown_without_training(tlx, bars, tmp_path):
    code, out, err = tlx("quanta", "-d", bars, "--show_only_build", *QUICK)
    assert (code, err) == (0, "")
    assert out.count("gate\n") == 6
    assert "position 2   fc1" in out
    assert "all at once  conv1, conv2, fc1" in out
    assert "5 × these, and the target alone: 25 trainings, --epochs 1" in out
    assert not (tmp_path / "tlx-runs" / "trials").exists()


@pytest.mark.slow
def test_a_source_is_trained_first_and_said(tlx, bars):
    code, out, err = tlx(
        "quanta", "-d", bars, "--source-dataset", bars, "-l", 2, "-r", 1, "--no-witness", *QUICK
    )
    assert (code, err) == (0, "")
    assert "source of QUANTA: mnist-cnn on bars: 1 trial" in out
    assert "bars to bars, mnist-cnn: 1 trial" in out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--positions", "7"), 2, "expected 0 to 2"),
        (("--quanta-form", "softmx"), 2, "nearest: softmax"),
        (("--quanta-init", "1.1"), 2, "1.1,-1.1"),
        (("--model", "nowhere.pth"), 3, "nowhere.pth"),
        (("--architecture", "quanta-cnn"), 2, "--source-dataset"),
        (("--halves",), 2, "at least 4"),
        (("--source", "random", "--halves"), 2, "one of them"),
        (("--augment", "2021"), 2, "2020"),
    ],
)
def test_a_wrong_word_gets_one_line_and_nothing_is_run(tlx, bars, tmp_path, words, code, says):
    found = tlx("quanta", "-d", bars, *QUICK, *words)
    assert found[0] == code
    assert says in found[2]
    assert "Traceback" not in found[2]
    assert not list(tmp_path.glob("tlx-runs/trials/*"))
