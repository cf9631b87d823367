"""tlx plot: the figures of a table as files; what is wrong is said with the stated exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from tlx.cli import app, plot
from tlx.errors import BadDataError, MissingError, TlxError, UnknownNameError
from tlx.studies.layer_metrics import table as layer_metrics_table


def rows(tags=("",), models=("a", "b")):
    return [
        {
            "model": model,
            "trained_on": model,
            "checkpoint": tag,
            "dataset": "digits",
            "layer": layer,
            "checkpoint_index": place if tag else None,
            "layer_index": i,
            "rows": 50,
            "width": 8,
            "id": 3.0 + i + place,
            "ss_ratio": 0.5 / (i + 1),
            "rsa_contrast": 0.1 * i,
        }
        for model in models
        for place, tag in enumerate(tags)
        for i, layer in enumerate(("in", "fc1", "out"))
    ]


@pytest.fixture
def run():
    """Run `tlx plot` in an app of its own: (exit code, the lines it printed); a TlxError is
    raised.
    """
    alone = typer.Typer(context_settings=app.SETTINGS)
    alone.command("plot")(plot.command)

    def go(*words):
        found = CliRunner().invoke(alone, list(map(str, words)))
        if isinstance(found.exception, TlxError):
            raise found.exception
        return found.exit_code, found.output.split("\n")[:-1]

    return go


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_the_usual_figures_stand_beside_the_table(run, tmp_path, form):
    layer_metrics_table.write(rows(), tmp_path)
    code, printed = run(tmp_path / f"layer_metrics.{form}")
    assert code == 0
    names = [f"{metric}_over_layers.png" for metric in ("id", "ss_ratio", "rsa_contrast")]
    assert printed == [str(tmp_path / name) for name in names]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_checkpoints_and_a_baseline_have_their_figures(run, tmp_path):
    table, _ = layer_metrics_table.write(rows(("0", "0_3", "1")), tmp_path)
    code, printed = run(
        table,
        "--metric",
        "id",
        "--baseline",
        "a",
        "--form",
        "svg",
        "--out",
        tmp_path / "new" / "figs",
    )
    assert code == 0
    names = ["id_over_layers.svg", "id_over_checkpoints.svg", "id_delta_to_baseline.svg"]
    assert printed == [str(tmp_path / "new" / "figs" / name) for name in names]
    assert sorted(p.name for p in (tmp_path / "new" / "figs").iterdir()) == sorted(names)
    before = (tmp_path / "new" / "figs" / names[0]).read_bytes()
    run(table, "--metric", "id", "--form", "svg", "--out", tmp_path / "new" / "figs")
    assert (tmp_path / "new" / "figs" / names[0]).read_bytes() == before


def test_all_is_what_the_table_holds(run, tmp_path):
    table, _ = layer_metrics_table.write(rows(), tmp_path)
    assert len(run(table, "--metric", "all")[1]) == 3


@pytest.mark.parametrize(
    ("words", "kind", "exit_code", "said"),
    [
        (["--metric", "id,idd"], UnknownNameError, 2, "unknown metric 'idd'"),
        (["--baseline", "c"], UnknownNameError, 2, "unknown baseline 'c'"),
        (["--form", "gif"], UnknownNameError, 2, "unknown form 'gif'"),
        (["--metric", "cka_label"], BadDataError, 3, "'cka_label' is empty in every row"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_drawn(
    run, tmp_path, words, kind, exit_code, said
):
    table, _ = layer_metrics_table.write(rows(), tmp_path)
    with pytest.raises(kind, match=said) as raised:
        run(table, *words)
    assert raised.value.exit_code == exit_code
    assert not list(tmp_path.glob("*.png"))


def test_bad_tables_are_bad_data(run, tmp_path):
    with pytest.raises(MissingError, match="tlx analyze"):
        run(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_text("model,dataset\na,b\n")
    with pytest.raises(BadDataError, match="no column layer") as raised:
        run(tmp_path / "bad.csv")
    assert raised.value.exit_code == 3
    with pytest.raises(BadDataError, match="is a folder"):
        run(tmp_path)


def test_the_module_needs_nothing_heavy():
    code = (
        "import sys; from tlx.cli import plot; print(sorted({'matplotlib', 'numpy', 'torch', "
        "'pyarrow', 'pandas'} "
        "& {m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_says_metrics_and_defaults(run):
    _, printed = run("--help")
    text = " ".join(" ".join(printed).split())
    for word in (
        "--metric",
        "--baseline",
        "--form",
        "png",
        "cka_label",
        "id,ss_ratio,rsa_contrast",
    ):
        assert word in text
