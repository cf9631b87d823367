"""tlx analyze end to end: every layer of several networks, against numpy alone; resumed, found
again, mirrored.
"""

from __future__ import annotations

import json

import naive
import numpy as np
import pytest
import undrawn
from scipy.spatial.distance import pdist, squareform

from tlx.errors import ErrorGroup, IntegrityError, MissingError, TlxError, UnknownNameError
from tlx.lab.settings import Settings
from tlx.lab.store import Store
from tlx.metrics import rsa
from tlx.metrics.blocks import linear, moments
from tlx.studies import activations, layer_measures, pretraining_plan, runner
from tlx.studies.layer_metrics import columns as layer_metrics_columns
from tlx.studies.layer_metrics import plan as layer_metrics_plan
from tlx.studies.layer_metrics import report as layer_metrics_report
from tlx.studies.layer_metrics import table as layer_metrics_table
from tlx.studies.layer_metrics import trial as layer_metrics_trial
from tlx.studies.layer_metrics.spec import LayerMetrics, Observed
from tlx.studies.pretraining import publish as pretraining_publish
from tlx.studies.pretraining_spec import PreTraining

ASKED = LayerMetrics(resamplings=5)


def observed(bars, **changes):
    return Observed(**{"dataset": str(bars), "samples": 24, **changes})


def summarise(store, key, form="png"):
    layer_metrics_plan.compare(store, key)
    layer_metrics_report.write_summary(store, key, form)


def perform(words, bars, settings, asked=ASKED, run_stage=undrawn.run_stage, **changes):
    made = layer_metrics_plan.plan_layer_metrics(words, observed(bars, **changes), asked, settings)
    report = run_stage(made, settings, lambda event: None, summarise)
    report.raise_if_failed(require_tracking=False)
    return made, report


@pytest.fixture(scope="module")
def checkpoints(bars, cache, tmp_path_factory):
    """A folder of weights along a training on the bars."""
    folder = tmp_path_factory.mktemp("weights")
    settings = Settings(
        store=str(folder / "runs"),
        cache=str(cache),
        tracking=False,
        workers=0,
        system_metrics=False,
    )
    spec = PreTraining(
        dataset=str(bars),
        epochs=3,
        batch_size=8,
        val_per_class=2,
        learning_rate=0.001,
        checkpoints=("0", "0_1", "1", "3"),
    )
    made = pretraining_plan.pretraining_study(spec, settings)
    report = runner.run_stage(made, settings, lambda event: None, lambda store, key: None)
    pretraining_publish.publish(
        report.results[0], made, Store(report.folder), folder / "bars.safetensors"
    )
    return folder / "bars-checkpoints"


def test_every_layer_by_numpy_alone(bars, settings):
    made, report = perform(["mnist"], bars, settings)
    dump, labels = made.trials[0].inputs.dump, np.array(made.trials[0].inputs.labels)
    rows = report.results[0].details["rows"]
    assert [row["layer"] for row in rows] == [
        "input",
        "conv1",
        "relu1",
        "conv2",
        "relu2",
        "relu3",
        "fc2:log_softmax",
    ]
    assert [row["layer_index"] for row in rows] == list(range(7))
    for row in rows:
        x = dump.array(row["layer"]).reshape(24, -1).astype(np.float64)
        within, total = naive.squares(x, labels)
        same, other = naive.contrast(naive.rdm_correlation(x), labels)
        assert row["width"] == x.shape[1]
        assert row["ss_ratio"] == pytest.approx(within / total, rel=1e-9)
        assert row["ss_between"] == pytest.approx(total - within, rel=1e-6)
        assert row["id_all"] == pytest.approx(naive.two_nn(x), rel=1e-9)
        assert (row["rsa_within"], row["rsa_between"]) == pytest.approx((same, other), rel=1e-5)
        assert row["rsa_contrast"] == pytest.approx(abs(same - other), rel=1e-4)


def test_layers_in_blocks_have_the_numbers_of_one_piece(bars, settings):
    _, whole = perform(["mnist"], bars, settings)
    made, blocks = perform(["mnist"], bars, settings, ASKED.replace(block_rows=7))
    assert made.trials[0].spec.key != whole.results[0].key
    first, second = (report.results[0].details for report in (whole, blocks))
    for row, expected in zip(second["rows"], first["rows"], strict=True):
        for name, metric in layer_measures.LAYER_METRICS.items():
            assert row.get(name) == pytest.approx(expected.get(name), rel=1e-5), name
            exact = name.startswith("id") and metric.unit != "r"
            assert not exact or row.get(name) == expected.get(name), name
    notes = [note for note in second["notes"] if "how: blocks" in note]
    assert notes[0] == "input: how: blocks (4 of at most 7 rows)"
    assert len(notes) == len(second["rows"])
    assert not any("blocks" in note for note in first["notes"])
    kept = [
        np.load(Store(report.folder).file(report.results[0].key, "rdms/03.npy"))
        for report in (whole, blocks)
    ]
    assert (kept[0] == kept[1]).all()


def test_blocks_lift_the_limit_of_large_layers(bars, settings, monkeypatch):
    """Where a copy of the compared rows would not fit, blocks compare them all."""
    monkeypatch.setattr(layer_metrics_trial, "WHOLE", 1)
    monkeypatch.setattr(layer_measures, "COPIED", 1)
    small = ASKED.replace(max_rows=100, resamplings=2)
    spec = perform(["mnist"], bars, settings)[0].trials[0]
    x, labels = spec.inputs.dump.array("relu3"), np.array(spec.inputs.labels)
    layer, compared = layer_metrics_trial._layer(small, x, labels)
    assert compared == len(layer.few) == 2
    layer, compared = layer_metrics_trial._layer(small.replace(block_rows=9), x, labels)
    assert compared == 24
    assert len(layer.few) == 2
    assert layer.notes()[1].startswith("rsa_label: measured in 2 of 24 compared rows")
    monkeypatch.undo()
    whole, _ = layer_metrics_trial._layer(small, x, labels)
    assert layer.dimension().whole == whole.dimension().whole
    assert layer.contrast().within == pytest.approx(whole.contrast().within, rel=1e-12)
    assert layer.label_cka() == pytest.approx(whole.label_cka(), rel=1e-6)
    monkeypatch.setattr(linear, "PRODUCT_BYTES", 1)
    assert layer.notes()[1].startswith("rsa_label, cka_label: measured in 2 of 24 compared rows")
    monkeypatch.setattr(moments, "MEANS_BYTES", 1)
    assert layer.squares().within == whole.squares().within


@pytest.mark.slow
@pytest.mark.parametrize("name", layer_measures.DISSIMILARITIES)
def test_every_offered_dissimilarity_is_measured(bars, settings, name):
    """The names are one list for the option, the metric and the axes, and each comes to numbers."""
    assert (
        set(layer_measures.DISSIMILARITIES)
        == set(rsa.DISSIMILARITIES)
        == set(layer_metrics_columns.UNITS) - {""}
    )
    made, report = perform(["mnist"], bars, settings, LayerMetrics(resamplings=2, rdm=name))
    rows = report.results[0].details["rows"]
    dump = made.trials[0].inputs.dump
    x = np.asarray(dump.array(dump.layers[-1]), np.float64).reshape(24, -1)
    scipys = squareform(pdist(x, name))
    labels = np.array(made.trials[0].inputs.labels)
    same = labels[:, None] == labels
    assert rows[-1]["rsa_between"] == pytest.approx(scipys[~same].mean(), rel=1e-4)
    assert all(row["rsa_contrast"] is not None for row in rows)


def test_a_setting_that_is_refused_inside_is_no_note(bars, settings, monkeypatch):
    """What the program itself offers must not fail as a note beside a missing number."""

    def refuse(*_, **__):
        raise UnknownNameError("dissimilarity", "x", ["y"])

    monkeypatch.setattr("tlx.metrics.rdm", refuse)
    with pytest.raises(TlxError, match=r"refused inside a trial.*unknown dissimilarity") as bug:
        perform(["mnist"], bars, settings)
    assert bug.value.exit_code == 1


@pytest.mark.slow
def test_checkpoints_in_their_order_in_one_table(bars, settings, checkpoints, tmp_path):
    made, report = perform(
        [str(checkpoints), "random_init"], bars, settings, run_stage=runner.run_stage
    )
    folder = report.folder / "studies" / made.key
    rows = layer_metrics_table.read(folder / "layer_metrics.csv")
    assert len(rows) == 5 * 7
    assert rows == layer_metrics_table.read(folder / "layer_metrics.parquet")
    tags = {
        row["checkpoint"]: row["checkpoint_index"] for row in rows if row["trained_on"] == "bars"
    }
    assert tags == {"0": 0, "0_1": 1, "1": 2, "3": 3}
    for name in (
        "id.png",
        "ss_ratio.png",
        "rsa_contrast.png",
        "rdm_comparison.png",
        "mds_fc2-log_softmax.png",
    ):
        assert (folder / name).stat().st_size > 1000, name
    for result in report.results:
        own = Store(report.folder).folder(result.key)
        assert {"rdms.png", "within_between.png", "layer_metrics.csv"} <= {
            p.name for p in own.iterdir()
        }
        assert len(list((own / "rdms").glob("*.npy"))) == 7
    said = layer_metrics_report.format_summary(report)
    assert "intrinsic dim." in said
    assert "bars 0_1" in said
    assert [p.name for p in layer_metrics_report.copy_table(report, tmp_path / "out")] == [
        "layer_metrics.csv",
        "layer_metrics.parquet",
    ]


@pytest.mark.slow
def test_layers_are_compared_with_each_other(bars, settings, checkpoints):
    made, report = perform([str(checkpoints)], bars, settings)
    found = json.loads((report.folder / "studies" / made.key / "rdm_comparison.json").read_text())
    rho = np.array(found["spearman"])
    assert rho.shape == (28, 28)
    np.testing.assert_allclose(rho, rho.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(rho), 1)
    rdms = [
        np.load(Store(report.folder).folder(r.key) / "rdms" / "03.npy") for r in report.results[:2]
    ]
    ranks = [np.argsort(np.argsort(r)) for r in rdms]
    at = [i for i, row in enumerate(found["names"]) if row["layer"] == "conv2"][:2]
    assert rho[at[0], at[1]] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-3)
    inputs_of = [i for i, row in enumerate(found["names"]) if row["layer"] == "input"]
    assert np.allclose(rho[np.ix_(inputs_of, inputs_of)], 1), "what goes in is the same for all"


@pytest.mark.slow
def test_a_large_damaged_dissimilarity_matrix_is_not_compared(
    bars, settings, checkpoints, monkeypatch
):
    """Files above a size are checked by their size alone when a trial is found: whoever reads one
    checks its bytes.
    """
    made, report = perform([str(checkpoints)], bars, settings)
    monkeypatch.setattr("tlx.lab.store.LARGE", 100)
    store = Store(report.folder)
    path = store.folder(report.results[0].key) / "rdms" / "03.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 16
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"03\.npy"):
        layer_metrics_plan.compare(store, made.key)


@pytest.mark.slow
def test_of_a_layer_too_large_some_rows_are_compared_and_put_beside_no_other_dissimilarities(
    bars, settings, monkeypatch
):
    row = 26 * 26 * 32 * 4
    monkeypatch.setattr(layer_metrics_trial, "WHOLE", 12 * row)
    monkeypatch.setattr(layer_measures, "COPIED", 12 * row)
    made, report = perform(["mnist"], bars, settings)
    result, dump = report.results[0], made.trials[0].inputs.dump
    labels = np.array(made.trials[0].inputs.labels)
    assert [note for note in result.details["notes"] if "12 of 24" in note] == [
        "conv1: rows are compared in 12 of 24, evenly spaced"
    ]
    index = dump.layers.index("conv1")
    kept = {
        p.name for p in (report.folder / "trials" / result.key / layer_metrics_trial.RDMS).iterdir()
    }
    assert kept == {f"{i:02d}.npy" for i in range(len(dump.layers)) if i != index}
    found, x = (
        result.details["rows"][index],
        np.array(dump.array("conv1"), np.float64).reshape(24, -1),
    )
    within, total = naive.squares(x, labels)  # these are still of all rows
    assert found["ss_ratio"] == pytest.approx(within / total, rel=1e-9)
    some = layer_measures.thinned(labels, 12)
    assert np.unique(labels[some], return_counts=True)[1].tolist() == [4, 4, 4]
    r = np.corrcoef(x[some])
    same = labels[some][:, None] == labels[some]
    assert found["rsa_within"] == pytest.approx(
        (1 - r)[same & ~np.eye(12, dtype=bool)].mean(), rel=1e-5
    )


@pytest.mark.slow
def test_asked_again_nothing_is_measured_and_more_networks_join(bars, settings, monkeypatch):
    first, _ = perform(["mnist"], bars, settings)
    measured, real = [], layer_metrics_trial._measure
    monkeypatch.setattr(
        layer_metrics_trial, "_measure", lambda *a: (measured.append(1), real(*a))[1]
    )
    second, report = perform(["mnist", "random_init"], bars, settings)
    assert second.key == first.key
    assert (report.reused, len(measured)) == (1, 7)


@pytest.mark.crash
def test_cut_off_it_goes_on_behind_the_layers_it_has(bars, settings, monkeypatch):
    made = layer_metrics_plan.plan_layer_metrics(["mnist"], observed(bars), ASKED, settings)
    real = layer_metrics_trial._measure
    calls = []

    def cut(layer, compared, context, index):
        calls.append(index)
        if index == 4 and len(calls) == 5:
            raise KeyboardInterrupt
        return real(layer, compared, context, index)

    monkeypatch.setattr(layer_metrics_trial, "_measure", cut)
    with pytest.raises(KeyboardInterrupt):
        undrawn.run_stage(made, settings, lambda event: None, summarise)
    report = undrawn.run_stage(made, settings, lambda event: None, summarise)
    assert calls == [0, 1, 2, 3, 4, 4, 5, 6]
    assert len(report.results[0].details["rows"]) == 7


@pytest.mark.slow
def test_workers_come_to_the_same_numbers(bars, settings, tmp_path):
    here = perform(["mnist", "random_init"], bars, settings)[1]
    there = perform(
        ["mnist", "random_init"], bars, settings.replace(workers=2, store=str(tmp_path / "other"))
    )[1]
    for a, b in zip(here.results, there.results, strict=True):
        strip = [
            [{k: v for k, v in row.items() if k != "seconds"} for row in r.details["rows"]]
            for r in (a, b)
        ]
        assert strip[0] == strip[1]


@pytest.mark.slow
def test_a_layer_that_cannot_be_measured_has_a_note_not_a_number(bars, settings, tmp_path):
    import torch
    from safetensors.torch import save_file

    from tlx.models import backbones

    network = backbones.load("mnist-cnn", weights=None, classes=10, seed=0)
    state = {name: torch.zeros(value.shape) for name, value in network.net.state_dict().items()}
    save_file(state, tmp_path / "dead.safetensors")
    _, report = perform(
        [str(tmp_path / "dead.safetensors")], bars, settings, run_stage=runner.run_stage
    )
    row, notes = report.results[0].details["rows"][-1], report.results[0].details["notes"]
    assert "ss_ratio" not in row, "a ratio where nothing varies is no number"
    assert "id" not in row
    assert "rsa_contrast" not in row
    assert any(note.startswith("fc2:log_softmax: ") for note in notes)


@pytest.mark.slow
def test_a_dump_is_analysed_as_it_is(bars, settings):
    dump = activations.extraction(
        activations.Extraction(dataset=str(bars), layers=("1", "2"), samples=12), settings
    )
    _, report = perform([dump.key[:12]], bars, settings)
    again, _ = perform([str(dump.folder)], bars, settings)
    rows = report.results[0].details["rows"]
    assert [row["width"] for row in rows] == list(dump.widths.values()), (
        "in the order in which the network runs"
    )
    assert [row["block"] for row in rows] == [1, 2]
    assert again.trials[0].spec.key == report.results[0].key


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("./nowhere/at/all", "nowhere"),
        ("vgg16/mars", "mars"),
        ("mars", "mars"),
        ("abcdef0123", "no dump|dump"),
    ],
)
def test_what_is_no_network_is_refused_all_at_once(bars, settings, word, says):
    with pytest.raises(TlxError, match=says):
        layer_metrics_plan.plan_layer_metrics([word, "mnist"], observed(bars), ASKED, settings)
    with pytest.raises((ErrorGroup, MissingError)):
        layer_metrics_plan.plan_layer_metrics(["./one", "./two"], observed(bars), ASKED, settings)


@pytest.mark.slow
def test_it_is_mirrored_layer_by_layer(bars, settings, tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    _, report = perform(
        ["mnist", "random_init"],
        bars,
        settings.replace(tracking=True, mlflow_path=uri),
        run_stage=runner.run_stage,
    )
    client = MlflowClient(uri)
    home = client.get_experiment_by_name("Layer metrics").experiment_id
    runs = client.search_runs([home])
    child = next(run for run in runs if run.info.run_name == "mnist on bars")
    for name in ("id", "ss_ratio", "rsa_contrast"):
        curve = {m.step: m.value for m in client.get_metric_history(child.info.run_id, name)}
        assert curve == {row["layer_index"]: row[name] for row in report.results[0].details["rows"]}
    assert {"id.png", "rdms.png", "layer_metrics.parquet"} <= {
        a.path for a in client.list_artifacts(child.info.run_id)
    }
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert {"layer_metrics.csv", "id.png"} <= {
        a.path for a in client.list_artifacts(parent.info.run_id)
    }
    assert len(client.get_metric_history(parent.info.run_id, "mnist/ss_ratio")) == 7


@pytest.mark.parametrize(("share", "noted"), [(0.0, False), (0.2, True), (0.7, True)])
def test_near_copies_of_rows_are_counted_and_noted_in_the_layers_row(share, noted):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 32))
    copied = round(share * len(x))
    x = np.concatenate([x, x[:copied] + 1e-5 * rng.normal(size=(copied, 32))])
    settings = layer_metrics_trial.measure_settings(LayerMetrics(resamplings=2))
    layer = layer_measures.LayerRows(x, np.zeros(len(x)), settings)
    note = layer_measures.LAYER_METRICS["id"].note(layer)
    assert bool(note) == noted
    assert not noted or f"{2 * copied} of {len(x)} rows are near copies" in note


@pytest.mark.parametrize("d", [1, 2, 10])
def test_rows_of_any_dimension_are_hardly_ever_taken_for_near_copies(d):
    x = np.random.default_rng(d).uniform(size=(1000, d))
    nearest = np.sort(squareform(pdist(x)), axis=1)[:, 1]
    assert layer_measures.near_copies(nearest) <= 0.02 * len(x)
    assert layer_measures.near_copies(np.ones(5)) == 0
