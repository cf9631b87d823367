"""tlx parameter-distance and tlx regression: the original's flags, what is printed, what is refused
and how.
"""

from __future__ import annotations

import csv
import json

import pytest
import torch

from tlx.models import backbones
from tlx.models.weights import reader as weights_reader

QUICK = (
    "--epochs",
    1,
    "--batch-size",
    8,
    "--val-per-class",
    3,
    "--seeds",
    1,
    "--workers",
    0,
    "--no-tracking",
    "--no-system-metrics",
)


@pytest.fixture
def files(tmp_path):
    """r, a, b and c: states of the small CNN; a is 1 and 3 steps of one noise from b and c."""
    start, noise = (
        backbones.load("mnist-cnn", weights=None, classes=10, seed=s).net.state_dict()
        for s in (0, 1)
    )
    for name, step in (("r", 0.0), ("a", 1.0), ("b", 1.5), ("c", 3.0)):
        weights_reader.write(
            tmp_path / f"{name}.safetensors", {k: v + step * noise[k] for k, v in start.items()}
        )
    return tmp_path


@pytest.mark.slow
def test_the_originals_flags(tlx, files, tmp_path):
    code, out, err = tlx(
        "parameter-distance",
        "-r",
        "r.safetensors",
        "-a",
        "a.safetensors",
        "-b",
        "b.safetensors",
        "-b",
        "far=c.safetensors",
        "--architecture",
        "mnist-cnn",
        "--out",
        "files",
        *QUICK,
    )
    assert (code, err) == (0, "")
    assert (
        "b, mean_abs: mean T of the layers 3.00, the head left out; the median layer moved 50.0 %"
        in out
    )
    assert "far, mean_abs: mean T of the layers 1.50" in out
    rows = list(
        csv.DictReader((tmp_path / "files" / "parameter_distance.csv").read_text().splitlines())
    )
    assert {row["target"] for row in rows} == {"b", "far"}
    assert (tmp_path / "files" / "parameter_distance_mean_abs_targets.png").is_file()
    code, again, _ = tlx(
        "parameter_distance",
        "--random=r.safetensors",
        "--pretrained=a.safetensors",
        "--finetuned=b.safetensors,far=c.safetensors",
        "--architecture=mnist-cnn",
        "--dataset=",
        *QUICK,
    )
    assert code == 0
    assert "2 of them found done" in again


@pytest.mark.slow
def test_without_b_a_network_is_fine_tuned_and_measured(tlx, bars):
    code, out, err = tlx("parameter-distance", "-d", bars, *QUICK)
    assert (code, err) == (0, "")
    assert (
        "note: random: the state that pre-training began from, made again from its seed, 0" in out
    )
    assert "fine-tuned: 1 network" in out
    assert "images of bars: intra-class variance D" in out
    assert "data amount N 27" in out
    assert "layers measured" in out
    assert "bars was fine-tuned: 4 steps, learning rate 0.01, 27 training images" in out
    code, out, _ = tlx("parameter-distance", "-d", bars, "-r", "random", *QUICK)
    assert "note: random states are drawn here" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("-b", "nowhere.pth"), 3, "nowhere.pth"),
        (("-a", "nowhere.pth"), 3, "nowhere.pth"),
        (
            ("-b", "a.safetensors", "-r", "r.safetensors", "-a", "a.safetensors"),
            3,
            "than resnet50? name it: --architecture",
        ),
        (("--norms", "l3"), 2, "mean_abs"),
        (("--rule", "all"), 2, "weights"),
        (("--head", "keep"), 2, "match"),
        (("--gap", "fid", "--source-images", "digits"), 2, "frechet"),
        (("--seeds", "0"), 2, "at least 1"),
        (("--architecture", "quanta-cnn"), 2, "comes without weights"),
        (("--architecture", "none"), 2, "-r, -a and -b as files"),
        (("--dataset", "./nowhere"), 3, "nowhere"),
        (("--source-images", "./nowhere"), 3, "nowhere"),
    ],
)
def test_a_wrong_word_gets_one_line_and_nothing_is_measured(
    tlx, files, tmp_path, bars, words, code, says
):
    found = tlx(
        "parameter-distance",
        *QUICK,
        *words,
        *(() if "--dataset" in words or "-b" in words else ("-d", bars)),
    )
    assert (found[0], says in found[2]) == (code, True), found
    assert "Traceback" not in found[2]
    assert not list(tmp_path.glob("tlx-runs/trials/*"))


def test_a_program_in_a_weight_file_is_refused(tlx, tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    code, out, err = tlx(
        "parameter-distance", "-b", "evil.pth", "--architecture", "mnist-cnn", *QUICK
    )
    assert code == 4
    assert "would run code" in err
    assert "run" not in out.split()


def test_the_published_regression_and_ones_own(tlx, tmp_path):
    code, out, err = tlx("regression", "--out", "made")
    assert (code, err) == (0, "")
    for words in (
        "log N      −0.773",
        "R² 0.893",
        "12 rows",
        "corrected: DomainNet-r, DomainNet-p, DomainNet-c",
        "published: intercept 2.86, G −0.26, D 0.32, log N −0.61. Not reproduced",
    ):
        assert words in out
    rows = list(csv.DictReader((tmp_path / "made" / "regression.csv").read_text().splitlines()))
    assert len(rows) == 8
    assert (tmp_path / "made" / "regression.png").stat().st_size > 10_000
    table = ["name,N,T,G,D"] + [
        f"{n},{10 ** (1 + n % 4)},{2.0 ** (n % 5)},{n % 3},{n * n % 7}" for n in range(9)
    ]
    (tmp_path / "mine.csv").write_text("\n".join(table))
    code, out, _ = tlx("regression", "mine.csv", "--raw")
    assert code == 0
    assert "of mine.csv: 9 rows, raw terms" in out
    assert "published" not in out
    code, _, err = tlx("regression", "nowhere.csv")
    assert (code, "nowhere.csv" in err) == (3, True)


def test_it_is_found_from_the_help(tlx):
    _, out, _ = tlx("--help")
    assert "parameter-distance" in out
    assert "regression" in out
    _, out, _ = tlx("parameter-distance", "--help")
    assert "`tlx regression`" in " ".join(out.split())
    assert "-b" in out


def test_what_is_recorded_is_plain_json(tlx, files, tmp_path):
    tlx(
        "parameter-distance",
        "-r",
        "r.safetensors",
        "-a",
        "a.safetensors",
        "-b",
        "b.safetensors",
        "--architecture",
        "mnist-cnn",
        "--head",
        "skip",
        *QUICK,
    )
    (path,) = tmp_path.glob("tlx-runs/trials/*/result.json")
    details = json.loads(path.read_text())["result"]["details"]
    assert [row["layer"] for row in details["profile"]] == ["conv1", "conv2", "fc1"]
    assert [row["transferability"] for row in details["profile"]] == pytest.approx(
        [3, 3, 3], rel=1e-4
    )
    assert [row["shape"] for row in details["distances"]] == [
        [32, 1, 3, 3],
        [64, 32, 3, 3],
        [128, 1600],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_the_figure_of_a_regression_is_drawn_in_the_form_that_is_asked_for(
    tlx, tmp_path, form, start
):
    code, out, err = tlx("regression", "--out", "made", "--form", form)
    assert (code, err) == (0, "")
    assert f".{form}" in out.splitlines()[-1]
    assert (tmp_path / "made" / f"regression.{form}").read_bytes().startswith(start)
    assert tlx("regression", "--form", "gif")[0] == 2
