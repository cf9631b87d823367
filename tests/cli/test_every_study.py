"""Every kind of study: its figures in the form that is asked for and drawn again, its warnings
wherever it is read.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
import shutil

import pytest
from cli.test_image_rules import COMMANDS, ask, checkpoints, evaluate

from tlx.lab.settings import FORMS
from tlx.lab.store import Store
from tlx.studies import reporting, study_figures
from tlx.studies.layer_metrics import report as layer_metrics_report
from tlx.studies.parameter_distance import report as parameter_distance_report
from tlx.studies.quanta import report as quanta_report

pytestmark = pytest.mark.e2e

STARTS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
STUDIES = [name for name in COMMANDS if name not in ("check", "splits draw", "extract", "crops")]
WITHOUT_FIGURES = {
    "search-trial",
    "final-test",
    "block-measures",
    "domain-gap",
    "checkpoint-tuning",
    "checkpoint-scores",
    "decision",
    "source-scores",
}


@pytest.fixture(scope="module")
def drawn(made_of_every_kind):
    """A store that holds a study of every kind, made with --form svg and sent to MLflow."""
    return made_of_every_kind[0]


@pytest.fixture(scope="module")
def printed(made_of_every_kind):
    """What each command printed."""
    return made_of_every_kind[1]


@pytest.fixture(scope="module")
def made_of_every_kind(tmp_path_factory, bars, cache):
    from tlx import cli

    folder = tmp_path_factory.mktemp("every-kind")

    def run(*words):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                cli.main(list(map(str, words)))
            except SystemExit as left:
                return left.code or 0, out.getvalue(), ""
        return 0, out.getvalue(), ""

    words = ("--figures", "all", "--form", "svg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TLX_CACHE", str(cache))
        done = {name: ask(run, name, bars, *words) for name in sorted(STUDIES, key="atlas".__eq__)}
        done["checkpoints"] = checkpoints(run, bars, bars, *words)
        done["evaluate"] = evaluate(run, bars, *words)
        done["sync"] = run("sync")
    assert not any(code for code, _, _ in done.values()), done
    return Store(folder / "tlx-runs"), {name: out for name, (_, out, _) in done.items()}


def figures(folder):
    """The figures below a folder by the end of their path, with their bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for form in FORMS
        for path in sorted(folder.rglob(f"*.{form}"))
    }


def test_every_command_draws_in_the_form_that_is_asked_for(drawn):
    found = figures(drawn.root)
    assert found
    assert {name.rpartition(".")[2] for name in found} == {"svg"}
    assert all(data.startswith(STARTS["svg"]) for data in found.values())


def test_the_tables_of_figures_have_a_row_for_every_kind_of_study_and_of_trial(drawn):
    records = [drawn.read_study(key) for key in drawn.studies()]
    assert {record["experiment"] for record in records} == set(study_figures.STUDIES)
    kinds = {drawn.find(row["key"]).kind for record in records for row in record["trials"]}
    assert kinds == set(study_figures.TRIALS) | WITHOUT_FIGURES


@pytest.mark.sampled(2)
@pytest.mark.parametrize("form", FORMS)
def test_plot_draws_every_study_again_in_every_form(drawn, tlx, tmp_path, form):
    code, out, complained = tlx("plot", "all", "--store", drawn.root, "--form", form)
    assert code == 0, complained
    again = figures(tmp_path / "tlx-figures")
    assert all(data.startswith(STARTS[form]) for data in again.values())
    assert len(again) == len(out.splitlines()) - out.count("no figures")
    for key in drawn.studies():
        first = {
            f"{key[:12]}/{name}": data for name, data in figures(drawn.study_folder(key)).items()
        }
        for row in drawn.read_study(key)["trials"]:
            first |= {
                f"{key[:12]}/trials/{row['key'][:12]}/{name}": data
                for name, data in figures(drawn.folder(row["key"])).items()
            }
        redrawn = {name.rpartition(".")[0] for name in again}
        assert {name.rpartition(".")[0] for name in first} <= redrawn, (
            "what the command drew is drawn again"
        )
        if form == "svg":
            assert all(again[name] == data for name, data in first.items()), "the same bytes"


def test_every_study_draws_no_figure_of_its_own_where_none_is_asked_for(drawn, tlx, tmp_path, bars):
    """All trials are found in a copy of the store; the summaries are written again."""
    copy = tmp_path / "copy"
    shutil.copytree(drawn.root, copy)
    words = ("--store", copy, "--form", "svg", "--figures", "none")
    done = [ask(tlx, name, bars, *words) for name in sorted(STUDIES, key="atlas".__eq__)]
    done.append(checkpoints(tlx, bars, bars, *words))
    assert not any(code for code, _, _ in done), done
    assert figures(copy / "studies") == {}
    assert figures(copy / "trials") == figures(drawn.root / "trials"), "trials stay as they were"
    code, _, complained = tlx("plot", "all", "--store", copy, "--form", "svg")
    assert code == 0, complained
    again = figures(tmp_path / "tlx-figures")
    for key in drawn.studies():
        for name, data in figures(drawn.study_folder(key)).items():
            assert again[f"{key[:12]}/{name}"] == data


@pytest.mark.parametrize(
    "write",
    [
        reporting.write_trial_figures,
        layer_metrics_report.write_trial_figures,
        parameter_distance_report.write_trial_figures,
        quanta_report.write_trial_figures,
    ],
    ids=["reporting", "layer-metrics", "parameter-distance", "quanta"],
)
def test_figures_of_a_trial_are_drawn_in_the_form_asked_for_or_not_at_all(write, drawn, tmp_path):
    kinds = {
        kind
        for kind, draw in study_figures.TRIALS.items()
        if draw.__module__ == write.__module__ and kind != "target-tuning"
    }
    results = [
        result
        for key in drawn.studies()
        for row in drawn.read_study(key)["trials"]
        if (result := drawn.find(row["key"])) is not None and result.kind in kinds
    ]
    assert {result.kind for result in results} == kinds
    for number, result in enumerate(results):
        folder = tmp_path / str(number)
        shutil.copytree(drawn.folder(result.key), folder)
        drawn_by_command = set(figures(folder))  # none of the layers of checkpoints
        write(folder, result, None)
        assert figures(folder) == {}
        write(folder, result, "svg")
        assert set(figures(folder)) >= drawn_by_command
        assert figures(folder)


def test_a_study_is_named_by_its_folder_its_key_or_the_first_letters(drawn, tlx, tmp_path):
    key = next(key for key in drawn.studies() if drawn.read_study(key)["experiment"] == "Chop")
    for number, word in enumerate((drawn.study_folder(key), key, key[:10])):
        code, _, complained = tlx(
            "plot", word, "--store", drawn.root, "--out", tmp_path / str(number)
        )
        assert code == 0, complained
        assert figures(tmp_path / str(number)) == figures(tmp_path / "0")


def test_a_study_that_is_not_there_or_not_told_apart_is_said(drawn, tlx):
    code, _, complained = tlx("plot", "zzzz", "--store", drawn.root)
    assert code == 3
    assert "study 'zzzz' not found" in complained
    assert tlx("plot", "all", "--store", drawn.root, "--form", "gif")[0] == 2


def test_figures_are_drawn_of_whole_files_only(drawn, tlx, tmp_path):
    key = next(key for key in drawn.studies() if drawn.read_study(key)["experiment"] == "Tuning")
    copy = tmp_path / "copy"
    shutil.copytree(drawn.root, copy)
    damaged = copy / "studies" / key / "search.json"
    data = damaged.read_bytes()
    damaged.write_bytes(data.replace(b"complete", b"complfte"))
    assert tlx("plot", key, "--store", copy)[0] == 9


def test_a_study_that_is_drawn_in_another_form_leaves_no_stale_figure(tmp_path):
    from tlx.studies import drawings

    drawings.write(tmp_path, {"curve": lambda form: f"old {form}".encode()}, "png")
    drawings.write(tmp_path, {"curve": lambda form: f"new {form}".encode()}, "svg")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "curve.png": "new png",
        "curve.svg": "new svg",
    }


# ---------------------------------------------------------------- warnings

# command → experiment of the study that reports its accuracies, and a figure that shows them
WARNED = {
    "fine-tuning": ("Fine-tuning", "few_shot_curve"),
    "feature-extraction": ("Feature extraction", "few_shot_curve"),
    "tune": ("Tuning", "history"),
    "compare": ("Compare", "comparison_curve"),
    "pretrain": ("Pre-training", None),  # a study of one network has the figures of its trial alone
    "quanta": ("QUANTA", "test_accuracy"),
    "layer-transfer": ("Layer transfer", "layer_transfer"),
    "parameter-distance": ("Parameter distance", "parameter_distance_mean_abs_bars"),
    "chop": ("Chop", "chop"),
    "prune": ("Pruning", "pruning"),
    "checkpoints": ("Checkpoints", "transfer_performance"),
    "atlas": ("Atlas", "atlas"),
}
WITHOUT_ACCURACIES = {"analyze", "scores"}
TOO_FEW = (
    "fewer than 4",
    "fewer than 10 images",
)  # of the 8 test images a class, and of one repeat


def study_of(store, experiment):
    """The record of the study that has this experiment; of several, the one whose summary shows
    warnings.
    """
    records = [store.read_study(key) for key in store.studies()]
    return next(
        record
        for record in records
        if record["experiment"] == experiment and not record["title"].startswith("sources of")
    )


def test_every_command_that_reports_accuracies_is_held_to_its_warnings():
    assert WARNED.keys() | WITHOUT_ACCURACIES == {*STUDIES, "checkpoints"}


@pytest.mark.parametrize("command", WARNED)
def test_warnings_are_in_the_closing_lines_the_figure_the_tag_and_the_metric(
    command, drawn, printed
):
    from mlflow.tracking import MlflowClient

    experiment, figure = WARNED[command]
    said = [line for line in printed[command].splitlines() if line.startswith("warning: ")]
    record = study_of(drawn, experiment)
    client = MlflowClient(f"sqlite:///{drawn.root.parent / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    run = next(run for run in runs if run.data.tags.get("tlx.key") == record["key"])
    tag = run.data.tags["tlx.warnings"]
    assert run.data.metrics["warnings"] == len(tag.split(" | "))
    shown = ""
    if figure is not None:
        text = (drawn.study_folder(record["key"]) / f"{figure}.svg").read_text()
        shown = " ".join(" ".join(re.findall("<!-- (.*?) -->", text)).split())
    for fault in TOO_FEW:
        assert any(fault in line for line in said), said
        assert fault in tag
        assert figure is None or fault in shown


@pytest.mark.parametrize("command", [name for name in WARNED if name not in ("pretrain", "atlas")])
def test_what_intervals_cover_is_said_where_there_are_some(command, printed):
    from tlx.studies.result_warnings import COVER, INTERVALS_COVER

    of_draws_and_images = command in ("fine-tuning", "feature-extraction", "tune", "compare")
    sentences = COVER.values() if of_draws_and_images else [INTERVALS_COVER]
    assert any(sentence in printed[command] for sentence in sentences)


# ---------------------------------------------------------------- names of blocks


def table_of(store, experiment, name):
    """The rows of a table of the study that has this experiment."""
    path = store.study_folder(study_of(store, experiment)["key"]) / f"{name}.csv"
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_block_has_one_name_in_tables_and_figures_of_every_study(drawn):
    from tlx.models import backbones

    names = {
        str(number): block.name
        for number, block in enumerate(backbones.meta_model("mnist-cnn").blocks, 1)
    }
    tables = {
        ("QUANTA", "quanta"): "block_name",
        ("Atlas", "atlas"): "block_name",
        ("Parameter distance", "parameter_distance_means"): "layer",
    }
    for (experiment, table), column in tables.items():
        rows = [
            row
            for row in table_of(drawn, experiment, table)
            if row["block"] and row.get("head") != "True"
        ]
        assert rows
        assert all(row[column] == names[row["block"]] for row in rows), experiment
    for experiment, figure in (
        ("QUANTA", "lambda_source_final"),
        ("QUANTA", "lambda_source"),
        ("Atlas", "atlas"),
        ("Parameter distance", "parameter_distance_mean_abs_bars"),
    ):
        text = (
            drawn.study_folder(study_of(drawn, experiment)["key"]) / f"{figure}.svg"
        ).read_text()
        assert re.search("<!-- (Block )?1 conv1 -->", text), figure


@pytest.mark.parametrize("architecture", ["mnist-cnn", "resnet18", "mobilenet-v1", "vit_b_16"])
def test_parameter_distance_groups_tensors_under_the_names_of_blocks(architecture):
    import torch

    from tlx.metrics.parameter_distance import parts as parameter_distance_parts
    from tlx.metrics.parameter_distance import rules as parameter_distance_rules
    from tlx.models import backbones

    network = backbones.meta_model(architecture)
    state = {name: torch.zeros(p.shape) for name, p in network.net.named_parameters()}
    found, _ = parameter_distance_parts._of_network(
        {"random": state},
        network,
        lambda name, rank, head: parameter_distance_rules.weights(name, rank),
    )
    named = {(part.block, part.layer) for part in found if part.block is not None}
    assert named <= set(enumerate([block.name for block in network.blocks], 1))
    assert named
