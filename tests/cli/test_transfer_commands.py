"""tlx layer-transfer, tlx chop and tlx prune: what they print, what they refuse, and with which
exit code.
"""

from __future__ import annotations

import json

import pytest
import typer
from conftest import draw_images

from tlx.cli import app, options
from tlx.errors import TlxError
from tlx.lab.settings import Settings
from tlx.studies.chop.spec import Chop, ChopGrid, Pruning, PruningGrid
from tlx.studies.layer_transfer.spec import LayerTransfer, LayerTransferGrid

COMMANDS = {name: app.COMMANDS[name] for name in ("layer-transfer", "chop", "prune")}
QUICK = [
    "--epochs",
    "2",
    "--batch-size",
    "8",
    "--val-per-class",
    "3",
    "--repeats",
    "1",
    "--workers",
    "0",
    "--no-tracking",
    "--no-system-metrics",
]


@pytest.fixture(scope="session")
def four(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("data") / "four", classes=4, per_class=8, size=24)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TLX_CACHE", str(cache))


def tlx(*words):
    """Run a command in this process; its TlxError, if any, comes out as it is."""
    made = typer.Typer(
        context_settings=app.SETTINGS, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    for name, function in COMMANDS.items():
        made.command(name, context_settings=app.SETTINGS)(function)
    made(options.normalised(list(words), app.flags()), standalone_mode=False)


@pytest.mark.slow
def test_layer_transfer_says_what_came_of_it(four, tmp_path, capsys):
    tlx("layer_transfer", "--dataset", str(four), "--treatments=AnB,baseB", "--depths=1,3", *QUICK)
    said = capsys.readouterr().out
    assert "note: A: bar0, bar1; B: bar2, bar3" in said
    assert said.count("note: ") == 1
    assert "base networks: 2 trained" in said
    assert "A3B, repeat 0: test accuracy" in said
    assert "baseA: " in said
    assert len(list(tmp_path.glob("tlx-runs/studies/*/layer_transfer.png"))) == 1
    tlx("layer-transfer", "--dataset", str(four), "--treatments=baseB", *QUICK)
    assert "1 of them found done" in capsys.readouterr().out


@pytest.mark.slow
def test_chop_names_and_copies_the_smallest_that_will_do(four, tmp_path, capsys):
    tlx(
        "chop",
        "--dataset",
        str(four),
        "--depths",
        "1",
        "--tolerance",
        "1",
        "--out",
        "small",
        *QUICK,
    )
    said = capsys.readouterr().out
    assert (
        "smallest within 100 points of the best validation accuracy: cut behind block 1, " in said
    )
    assert json.loads((tmp_path / "small.json").read_text())["cut"] == 1
    assert (tmp_path / "small.safetensors").is_file()


def test_prune_goes_round_by_round(four, tmp_path, capsys):
    tlx("prune", "--dataset", str(four), "--iterations", "1", "--keep", "0.5", *QUICK)
    said = capsys.readouterr().out
    assert "round 0: 1 network" in said
    assert "50.00 %" in said
    assert len(list(tmp_path.glob("tlx-runs/studies/*/pruning.png"))) == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["layer-transfer", "--treatments", "CnB"], 2, "unknown treatment 'CnB'"),
        (["layer-transfer", "--depths", "4"], 2, "0 to 3"),
        (["layer-transfer", "--depths", "-1"], 2, "at least 0"),
        (["layer-transfer", "--bn", "keras"], 2, "keras2"),
        (["layer-transfer", "--repeats", "0"], 2, "at least 1"),
        (["layer-transfer", "--halves", "third"], 2, "second"),
        (["layer-transfer", "--model", "./nowhere.pth"], 3, "nowhere"),
        (["layer-transfer", "--dataset", "./nowhere"], 3, "nowhere"),
        (["layer-transfer", "--architecture", "resnet51"], 2, "nearest: resnet50"),
        (["layer-transfer", "--dataset", "BARS"], 2, "at least 4, so that each half"),
        (["chop", "--depths", "4"], 2, "1 to 3"),
        (["chop", "--depths", "0"], 2, "at least 1"),
        (["chop", "--freeze", "2", "--depths", "1"], 2, "freeze"),
        (["chop", "--tolerance", "2"], 2, "at most 1"),
        (["chop", "--source", "mars"], 2, "MNIST"),
        (["prune", "--keep", "1"], 2, "at most 0.999"),
        (["prune", "--scope", "local"], 2, "layer"),
        (["prune", "--freeze", "4"], 2, "0 to 3"),
        (["prune", "--iterations", "0"], 2, "at least 1"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_trained(words, code, says, tmp_path, bars):
    words = [str(bars) if word == "BARS" else word for word in words]
    with pytest.raises(TlxError) as refused:
        tlx(*words)
    assert refused.value.exit_code == code
    assert says in str(refused.value)
    assert not list(tmp_path.glob("tlx-runs/trials/*"))


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        ("layer-transfer", (LayerTransfer, LayerTransferGrid, Settings)),
        ("chop", (Chop, ChopGrid, Settings)),
        ("prune", (Pruning, PruningGrid, Settings)),
    ],
)
def test_every_setting_has_an_option_and_says_what_it_means(command, kinds, capsys):
    tlx(command, "--help")
    text = capsys.readouterr().out
    for kind in kinds:
        for name, row in kind.settings().items():
            if row.cli:
                assert row.help, f"{kind.__name__}.{name}"
                assert f"--{name.replace('_', '-')}" in text, f"{kind.__name__}.{name}"
