"""Tables, words and figures of parameter distances: numbers by hand, and what is drawn of them."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from tlx.plots.statistics import student_t
from tlx.result import Result
from tlx.studies.parameter_distance import closing as parameter_distance_closing
from tlx.studies.parameter_distance import figures as parameter_distance_figures
from tlx.studies.parameter_distance import regression_report
from tlx.studies.parameter_distance import report as parameter_distance_report

LAYERS = ("one", "two", "head")


def triple(
    target="pets",
    repeat=0,
    ts=(4.0, 2.0, 1.0),
    norm="mean_abs",
    confounded=(),
    undefined=(),
    blocks=True,
):
    """(spec, result) of a trial: the distances are such that T is as given; a layer in `undefined`
    has none.
    """
    profile = []
    for number, (layer, t) in enumerate(zip(LAYERS, ts, strict=True), 1):
        still = layer in undefined
        profile.append(
            {
                "norm": norm,
                "layer": layer,
                "block": number if blocks and layer != "head" else None,
                "head": layer == "head",
                "tensors": 1,
                "random_pretrained": 1.0,
                "pretrained_finetuned": 0.0 if still else 0.5,
                "random_finetuned": 0.5 * t,
                "transferability": None if still else t,
                "movement": 0.0 if still else 0.5,
            }
        )
    body = [row["transferability"] for row in profile[:2] if row["transferability"] is not None]
    details = {
        "profile": profile,
        "norm": norm,
        "rule": "weights",
        "overall": np.mean(body) if body else None,
        "movement": 0.5,
        "undefined": list(undefined),
        "confounded": list(confounded),
        "notes": [],
        "training": {},
        "distances": [{"name": f"{r['layer']}.weight", "shape": [2, 3], **r} for r in profile],
    }
    spec = {
        "target": target,
        "norm": norm,
        "repeat": repeat,
        "architecture": "net",
        "draw": None,
        "states": ["r", "a", f"{target}{repeat}"],
        "images": "",
    }
    return spec, Result(
        key=f"{target}{repeat}{norm}", kind="parameter-distance", spec=spec, details=details
    )


def means(*triples):
    return parameter_distance_report.mean_rows(parameter_distance_report.trial_rows(triples))


def test_the_tidy_table_has_tensors_layers_and_the_whole():
    rows = parameter_distance_report.trial_rows([triple(confounded=("two",), undefined=("one",))])
    assert [(row["level"], row["name"]) for row in rows] == [
        *(("tensor", f"{name}.weight") for name in LAYERS),
        *(("layer", name) for name in LAYERS),
        ("overall", "overall"),
    ]
    assert [row["mark"] for row in rows] == ["", "", "", "undefined", "confounded", "", ""]
    assert rows[0]["shape"] == "2x3"
    assert rows[-1]["transferability"] == 2.0
    assert rows[-1]["tensors"] == 2, "the head does not count"
    assert len({tuple(row) for row in rows}) == 1


def test_means_over_repeats_by_hand():
    some = [triple(repeat=n, ts=(t, 2.0, 1.0)) for n, t in enumerate((3.0, 4.0, 8.0))]
    rows = {row["layer"]: row for row in means(*some)}
    assert rows["one"]["transferability"] == 5.0
    half = student_t(2) * np.std([3, 4, 8], ddof=1) / math.sqrt(3)
    assert rows["one"]["transferability_low"] == pytest.approx(max(0.0, 5 - half))
    assert rows["one"]["transferability_high"] == pytest.approx(5 + half)
    assert (rows["one"]["repeats"], rows["one"]["defined"]) == (3, 3)
    assert rows["two"]["transferability_low"] == 2.0
    assert rows[""]["transferability"] == pytest.approx(np.mean([2.5, 3, 5]))


def test_a_layer_that_did_not_move_in_one_repeat_is_a_mean_of_the_others():
    rows = {row["layer"]: row for row in means(triple(), triple(repeat=1, undefined=("one",)))}
    assert (rows["one"]["transferability"], rows["one"]["defined"], rows["one"]["undefined"]) == (
        4.0,
        1,
        1,
    )
    assert rows["one"]["transferability_low"] is None
    assert rows["one"]["pretrained_finetuned"] == 0.25


def test_the_table_of_one_target_shows_the_distances_of_several_only_t():
    said = parameter_distance_report.table(means(triple(confounded=("one",)))).splitlines()
    assert said[0].split() == [
        "layer",
        "block",
        "T",
        "D(random,",
        "pretrained),",
        "mean_abs",
        "D(pretrained,",
        "finetuned)",
        "D(random,",
        "finetuned)",
        "moved",
    ]
    assert said[2].split() == ["one", "1", "4.00", "!", "1", "0.5", "2", "50.0", "%"]
    assert said[4].split()[:3] == ["head", "(head)", "–"]
    said = parameter_distance_report.table(
        means(triple(), triple(target="cars", ts=(9.0, 3.0, 1.0)))
    ).splitlines()
    assert said[0].split() == ["layer", "block", "pets", "cars"]
    assert said[2].split() == ["one", "1", "4.00", "9.00"]
    both = parameter_distance_report.table(
        means(triple(), triple(norm="l2")), "markdown"
    ).splitlines()
    assert both[0] == "| layer | block | pets, mean_abs | pets, l2 |"


def test_what_is_to_be_wary_of_is_named():
    said = parameter_distance_closing._wary(means(triple(confounded=("one",), undefined=("two",))))
    assert [line.split(": ")[-1] for line in said] == ["one", "two"]
    assert all(
        line.startswith("warning: pets, mean_abs: ") and "in 1 of 3 layers" in line for line in said
    )
    assert parameter_distance_closing._wary(means(triple())) == []


def test_nothing_that_moved_at_all():
    rows = means(triple(undefined=LAYERS))
    said = parameter_distance_closing._overall(rows[-1], False)
    assert said == "overall: T is undefined, nothing moved from pretrained to finetuned"
    assert "–" in parameter_distance_report.table(rows)
    assert picture(parameter_distance_figures.profile(rows, "still")).width > 800


def picture(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.slow
@pytest.mark.parametrize(
    "some",
    [
        (triple(),),
        (triple(ts=(40.0, 1.5, 1.0)), triple(repeat=1, ts=(60.0, 1.2, 0.9))),
        (triple(blocks=False),),
        (triple(confounded=("one",), undefined=("two",)),),
    ],
    ids=["one", "repeats", "names", "marks"],
)
def test_figures_are_drawn_and_the_same_again(some):
    first = parameter_distance_figures.profile(means(*some), "a title")
    assert first == parameter_distance_figures.profile(means(*some), "a title")
    assert picture(first).width > 1000
    assert parameter_distance_figures.profile(means(*some), form="svg").startswith(b"<?xml")


@pytest.mark.slow
def test_a_mark_and_a_band_are_seen():
    plain = parameter_distance_figures.profile(means(triple()))
    for other in (triple(confounded=("one",)), triple(undefined=("one",))):
        assert parameter_distance_figures.profile(means(other)) != plain
    band = parameter_distance_figures.profile(means(triple(), triple(repeat=1, ts=(5.0, 2.5, 1.0))))
    assert band != parameter_distance_figures.profile(means(triple(ts=(4.5, 2.25, 1.0))))


def test_every_target_has_a_figure_and_all_together_one():
    lines = parameter_distance_report.lines_of(
        means(triple(), triple(target="a/b c", ts=(3.0, 2.0, 1.0)), triple(norm="l2"))
    )
    assert set(parameter_distance_figures.all_of(lines, "t")) == {
        "mean_abs_pets",
        "mean_abs_a_b_c",
        "l2_pets",
        "mean_abs_targets",
    }


FIT = {
    "about": "a table",
    "names": [f"set {n}" for n in range(6)],
    "r2": 0.5,
    "loo_r2": None,
    "n": 6,
    "degrees": 2,
    "fitted": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "observed": [1.5, 1.8, 3.3, 3.9, 5.2, 5.5],
    "rows": [],
    "forms": {
        form: [
            {
                "term": term,
                "coefficients": -0.25,
                "standard_errors": 0.5,
                "low": -1.0,
                "high": 0.5,
                "t": -0.5,
                "p": 0.0004,
            }
            for term in ("intercept", "G", "D", "log_N")
        ]
        for form in ("z-scored", "raw")
    },
}


def test_a_regression_in_words_in_a_table_and_as_a_figure():
    said = regression_report.text(FIT)
    assert "log N      −0.25        0.5  −1 to 0.5  −0.50  < 0.001" in said
    assert "R² 0.500; of rows left out one by one –; 2 degrees of freedom" in said
    assert "published" not in said
    assert "corrected" not in said
    lines = regression_report.csv(FIT).splitlines()
    assert lines[0] == "form,term,coefficient,standard_error,ci95_low,ci95_high,t,p"
    assert len(lines) == 9
    drawn = parameter_distance_figures.observed_and_fitted(FIT)
    assert drawn == parameter_distance_figures.observed_and_fitted(FIT)
    assert drawn != parameter_distance_figures.observed_and_fitted(FIT | {"corrected": ["set 1"]})


def test_what_a_study_says_of_its_images():
    way = {
        "norm": "mean_abs",
        "gap": "",
        "source": "",
        "table": [],
        "fit": None,
        "why": "no domain gap",
    }
    assert regression_report.of_study([way]) == [], "nobody asked for a gap"
    assert regression_report.of_study(
        [way | {"gap": "mmd", "source": "mnist", "why": "2 targets"}]
    ) == ["no regression (mmd to mnist, mean_abs): 2 targets"]
    details = {
        "target": "pets",
        "G": None,
        "D": 0.123456,
        "N": 1234,
        "features": "means",
        "layer": "fc",
        "width": 9,
    }
    assert regression_report.domain(details) == (
        "images of pets: intra-class variance D 0.1235, data amount N 1,234; means (fc, 9 wide)"
    )


@pytest.mark.parametrize(
    "ts", [(4.0, 2.0, 1.0), (1.2, 1.1, 1.0), (0.4, 0.5, 0.2), (4e5, 30.0, 1.0)]
)
def test_t_is_drawn_on_a_log_axis_that_holds_1_and_every_mean(ts, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        parameter_distance_figures.figures,
        "render",
        lambda figure, form: drawn.append(figure) or b"",
    )
    rows = means(*(triple(repeat=n, ts=tuple(t * (1 + n / 9) for t in ts)) for n in range(2)))
    parameter_distance_figures.profile(rows)
    parameter_distance_figures.targets({"pets": rows, "cars": rows})
    for figure in drawn:
        axes = figure.axes[0]
        low, high = axes.get_ylim()
        assert axes.get_yscale() == "log"
        assert low < 1 < high
        assert all(low < row["transferability"] < high for row in rows if row["level"] == "layer")
        assert len([tick for tick in axes.get_yticks() if low <= tick <= high]) >= 2


def test_two_repeats_are_drawn_with_their_range():
    rows = {
        row["layer"]: row
        for row in means(triple(ts=(3.0, 2.0, 1.0)), triple(repeat=1, ts=(5.0, 2.0, 1.0)))
    }
    assert parameter_distance_figures._ends(rows["one"], "transferability") == (3.0, 5.0)
    assert parameter_distance_figures._ends(rows["one"], "random_finetuned") == (1.5, 2.5)
    said = parameter_distance_report.table(list(rows.values()))
    assert "4.00 (3.00 to 5.00)" in said


def test_a_mean_that_rounding_put_outside_its_range_is_drawn():
    rows = means(triple(), triple(repeat=1), triple(repeat=2))
    for row in rows:
        for name in [name for name in row if f"{name}_lowest" in row and row[name]]:
            row[name] = math.nextafter(row[f"{name}_lowest"], 0.0)  # as of three equal values
    assert picture(parameter_distance_figures.profile(rows, "a title")).width > 800
