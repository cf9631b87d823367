"""tlx ls and tlx show: what is in a store, for people and as JSON."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import save_file

from tlx.models import backbones

FEW = (
    "--shots",
    1,
    "--splits",
    2,
    "--val-per-class",
    2,
    "--no-use-crops",
    "--workers",
    0,
    "--no-tracking",
)


@pytest.fixture
def studies(tlx, bars):
    """A store with one study of each few-shot kind."""
    assert tlx("fine-tuning", "--dataset", bars, "--epochs", 1, *FEW)[0] == 0
    assert tlx("feature-extraction", "--dataset", bars, "--classifier", "knn:k=1", *FEW)[0] == 0
    return tlx


def test_ls_lists_every_study_with_its_result(studies):
    code, out, _ = studies("ls")
    assert code == 0
    assert "2 studies in" in out
    assert "Fine-tuning" in out
    assert "Feature extraction" in out
    assert out.count("2 of 2") == 2
    rows = json.loads(studies("ls", "--json")[1])
    assert {row["finished"] for row in rows} == {2}
    assert all(row["dataset"] == "bars" and row["verdict"] for row in rows)


def listed(studies, monkeypatch, width):
    """Return the lines of `tlx ls` on a terminal of this width, or with None in a pipe."""
    monkeypatch.setattr("tlx.cli.results.terminal_width", lambda: width)
    code, out, _ = studies("ls")
    assert code == 0
    return out.rstrip("\n").split("\n")


def test_ls_fits_a_terminal_and_loses_nothing(studies, monkeypatch):
    rows = json.loads(studies("ls", "--json")[1])
    wide = listed(studies, monkeypatch, None)
    needed = max(map(len, wide[:-1]))
    assert needed > 80, "else this tests nothing"
    assert listed(studies, monkeypatch, needed) == wide
    for width in (80, 60):
        narrow = listed(studies, monkeypatch, width)[:-1]
        assert max(map(len, narrow)) <= width
        words = " ".join(" ".join(narrow).split())
        for row in rows:
            assert row["key"][:12] in words
            assert row["title"] in words
            assert f"{row['finished']} of {row['trials']} trials" in words
            assert row["verdict"].removeprefix(f"{row['title']}: ") in words


def test_studies_of_two_weight_files_have_the_names_of_the_files_in_their_titles(
    tlx, bars, tmp_path
):
    for seed in (1, 2):
        network = backbones.load("mnist-cnn", weights=None, seed=seed, classes=10)
        tensors = {name: t.contiguous() for name, t in network.net.state_dict().items()}
        save_file(tensors, tmp_path / f"seed{seed}.safetensors")
        words = ("--dataset", bars, "--classifier", "ncm", "--model", f"seed{seed}.safetensors")
        assert tlx("feature-extraction", *words, *FEW)[0] == 0
    titles = {row["title"] for row in json.loads(tlx("ls", "--json")[1])}
    assert titles == {f"mnist-cnn (seed{seed}.safetensors) on bars" for seed in (1, 2)}


@pytest.mark.slow
def test_show_prints_table_figures_and_the_whole_record(studies):
    rows = json.loads(studies("ls", "--json")[1])
    for row in rows:
        code, out, _ = studies("show", row["key"][:8])
        assert code == 0
        assert row["title"] in out
        assert row["key"] in out
        assert "few_shot_curve.png" in out
        whole = json.loads(studies("show", row["key"], "--json")[1])
        assert whole["summary"]["metrics"]
        assert whole["figures"].keys() == {"few_shot_curve"}


def test_an_empty_store_is_listed_and_a_missing_study_refused(tlx):
    code, out, _ = tlx("ls")
    assert code == 0
    assert "0 studies in" in out
    code, _, complained = tlx("show", "abc")
    assert code == 3
    assert "study 'abc' not found" in complained


@pytest.mark.slow
def test_a_damaged_study_is_shown_as_damaged_and_not_read(studies, tmp_path):
    (path, *_) = sorted(tmp_path.glob("tlx-runs/studies/*/study.json"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, out, _ = studies("ls")
    assert code == 0
    assert "damaged" in out
    assert studies("show", path.parent.name)[0] == 9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "trials"),
    [
        (("fine-tuning", "--epochs", 1, *FEW), 2),
        (("tune", "--shots", 1, "--splits", 1, "--val-per-class", 2, "--trials", 2, *FEW[-3:]), 1),
    ],
)
def test_the_outcome_as_json_is_all_of_standard_output(tlx, bars, words, trials):
    code, out, complained = tlx(*words, "--dataset", bars, "--json")
    assert code == 0, complained
    content = json.loads(out)
    assert len(content["trials"]) >= trials
    assert content["summary"]["metrics"]
    assert "results go to" in complained


@pytest.mark.slow
def test_the_page_of_a_comparison_is_shown_and_opened(tlx, bars, monkeypatch):
    words = ("--dataset", bars, "--epochs", 1, "--classifier", "ncm", *FEW)
    assert tlx("compare", *words)[0] == 0
    rows = {row["study"]: row["key"] for row in json.loads(tlx("ls", "--json")[1])}
    key = rows["Compare"]
    page = json.loads(tlx("show", key, "--json")[1])["page"]
    assert page.endswith(f"{key}/page.html")
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    code, out, _ = tlx("show", key[:10], "--open")
    assert code == 0
    assert opened == [f"file://{page}"]
    assert f"page: {page}" in out
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    assert f"no browser was found here; the page is {page}" in tlx("show", key, "--open")[1]
    code, _, complained = tlx("show", rows["Fine-tuning"], "--open")
    assert code == 2
    assert "has no page" in complained
