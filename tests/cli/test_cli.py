"""The skin: its options are the specs', its words the seeds', its exits the stated ones; it starts
fast.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tlx import cli
from tlx.cli import app, options
from tlx.lab.settings import Settings
from tlx.studies.activations_spec import Extraction
from tlx.studies.atlas.spec import Atlas, AtlasGrid, BlockMeasures
from tlx.studies.checkpoints.spec import CheckpointGrid
from tlx.studies.chop.spec import Chop, ChopGrid, Pruning, PruningGrid
from tlx.studies.feature_extraction.spec import FeatureExtraction, FeatureExtractionGrid
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning.spec import FineTuning
from tlx.studies.layer_metrics.spec import LayerMetrics, Observed
from tlx.studies.layer_transfer.spec import LayerTransfer, LayerTransferGrid
from tlx.studies.parameter_distance.spec import (
    ParameterDistance,
    ParameterDistanceGrid,
    TargetTuning,
)
from tlx.studies.pretraining.spec import PreTraining
from tlx.studies.quanta.spec import Quanta, QuantaGrid
from tlx.studies.tuning.spec import Search, SearchBase

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "torch",
    "torchvision",
    "mlflow",
    "optuna",
    "sklearn",
    "scipy",
    "matplotlib",
    "pandas",
    "numba",
    "PIL",
    "numpy",
}
SEEDS = [
    f"--{name}"
    for name in (
        "architecture",
        "source",
        "model",
        "dataset",
        "use-crops",
        "precomputed-crops",
        "epochs",
        "batch-size",
        "split-path",
        "splits",
        "configuration",
        "optimizer",
        "learning-rate",
        "weight-decay",
        "momentum",
        "model-selection",
        "mlflow-path",
        "job",
    )
]


def tlx(*words):
    """Run a command in this process: its exit code."""
    with pytest.raises(SystemExit) as left:
        cli.main(list(words))
    return left.value.code or 0


def test_help_needs_nothing_heavy():
    code = (
        "import sys; from tlx import cli; from tlx.cli import app; "
        f"print(sorted({HEAVY!r} & {{m.partition('.')[0] for m in sys.modules}}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert loaded == "[]"


@pytest.mark.parametrize(
    "command",
    [*app.COMMANDS, "splits draw", "splits check", "dumps ls", "dumps verify", "dumps rm"],
)
def test_every_command_explains_itself(command, capsys):
    assert tlx(*command.split(), "--help") == 0
    text = capsys.readouterr().out
    assert "Usage: tlx" in text
    described = re.findall(r"^  (?:-\w, )?--[\w-]+", text, re.MULTILINE)
    assert described
    assert "Traceback" not in text


def test_the_seeds_flags_are_all_there(capsys):
    tlx("fine-tuning", "--help")
    text = capsys.readouterr().out
    assert [flag for flag in SEEDS if flag not in text] == []


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        (FineTuning, "fine-tuning"),
        (FewShotGrid, "fine-tuning"),
        (Settings, "fine-tuning"),
        (PreTraining, "pretrain"),
        (FeatureExtraction, "feature-extraction"),
        (FeatureExtractionGrid, "feature-extraction"),
        (Extraction, "extract"),
        (Observed, "analyze"),
        (LayerMetrics, "analyze"),
        (Search, "tune"),
        (Quanta, "quanta"),
        (QuantaGrid, "quanta"),
        (Atlas, "atlas"),
        (BlockMeasures, "atlas"),
        (AtlasGrid, "atlas"),
        (CheckpointGrid, "checkpoints"),
        (ParameterDistance, "parameter-distance"),
        (ParameterDistanceGrid, "parameter-distance"),
        (TargetTuning, "parameter-distance"),
    ],
)
def test_every_setting_says_what_it_means_and_has_an_option(kind, command, capsys):
    for name, row in kind.settings().items():
        if not row.derived:
            assert row.help, f"{kind.__name__}.{name} has no help"
    tlx(command, "--help")
    text = capsys.readouterr().out
    missing = [
        n
        for n, row in kind.settings().items()
        if not row.derived and f"--{n.replace('_', '-')}" not in text
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("words", "become"),
    [
        (["fine_tuning", "--batch_size=3"], ["fine_tuning", "--batch-size=3"]),
        (["--use-crops=true"], ["--use-crops"]),
        (["--use_crops", "True"], ["--use-crops"]),
        (["--use-crops=False"], ["--no-use-crops"]),
        (["--use-crops", "off", "--seed", "1"], ["--no-use-crops", "--seed", "1"]),
        (["--use-crops", "--seed", "1"], ["--use-crops", "--seed", "1"]),
        (["--use-crops="], []),
        (["--use-crops=perhaps"], ["--use-crops=perhaps"]),
        (["--model=", "--source=None", "--epochs=4"], ["--epochs=4"]),
        (["--dataset=a=b"], ["--dataset=a=b"]),
        (["--", "--use_crops"], ["--", "--use-crops"]),
        (["-e", "3"], ["-e", "3"]),
    ],
)
def test_the_words_of_mlflow_run_become_ours(words, become):
    assert options.normalised(words, {"use-crops"}) == become


def test_mlproject_says_the_defaults_that_the_command_has():
    yaml = pytest.importorskip("yaml")
    project = yaml.safe_load((ROOT / "MLproject").read_text())
    assert project["databricks_spark_job"] == {}
    assert not {"python_env", "conda_env", "docker_env"} & set(project)
    kinds = {
        "fine_tuning": (FineTuning, FewShotGrid, Settings),
        "pretrain": (PreTraining, Settings),
        "feature_extraction": (FeatureExtraction, FeatureExtractionGrid, FewShotGrid, Settings),
        "extract": (Extraction, Settings),
        "analyze": (Observed, LayerMetrics, Settings),
        "tune": (Search, SearchBase, FewShotGrid, Settings),
        "quanta": (Quanta, QuantaGrid, Settings),
        "layer_transfer": (LayerTransfer, LayerTransferGrid, Settings),
        "chop": (Chop, ChopGrid, Settings),
        "prune": (Pruning, PruningGrid, Settings),
        "parameter_distance": (ParameterDistance, ParameterDistanceGrid, TargetTuning, Settings),
        "checkpoints": (CheckpointGrid, LayerMetrics, Settings),
        "atlas": (Atlas, BlockMeasures, AtlasGrid, Settings),
    }
    assert set(kinds) == set(project["entry_points"])
    for entry, row in project["entry_points"].items():
        defaults = {
            name: value
            for kind in reversed(kinds[entry])
            for name, value in kind.defaults().items()
            if not kind.settings()[name].derived
        }
        for name, parameter in row["parameters"].items():
            given, want = parameter["default"], defaults.get(name)
            if isinstance(want, bool):
                assert given == str(want).lower()
            else:
                assert str(given) == ("" if want in (None, ()) else str(want)), f"{entry} {name}"
        used = re.findall(r"\{(\w+)\}", row["command"])
        assert used == list(row["parameters"])
        assert not re.search(r"['\"]", row["command"]), (
            "a quoted {parameter} could be broken out of"
        )
        assert row["command"].startswith(f"tlx {entry.replace('_', '-')} ")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["fine-tuning", "--optimizer", "sgdd"], 2, "nearest: sgd"),
        (["fine-tuning", "--epochs", "0"], 2, "at least 1"),
        (["fine-tuning", "--epochs", "many"], 2, "a whole number"),
        (["fine-tuning", "--learning-rate", "-1"], 2, "learning-rate"),
        (["fine-tuning", "--learning-rate", "nan"], 2, "a finite number"),
        (["fine-tuning", "--seed", "-1"], 2, "seed"),
        (["fine-tuning", "--configuration", "7"], 2, "at most 3"),
        (["fine-tuning", "--no-such-option"], 2, "No such option"),
        (["fine-tunning"], 2, "fine-tuning"),
        (["fine-tuning", "--architecture", "resnet51"], 2, "nearest: resnet50"),
        (["fine-tuning", "--dataset", "digit"], 2, "nearest: digits"),
        (["fine-tuning", "--dataset", "./nowhere"], 3, "nowhere"),
        (["fine-tuning", "--split-path", "./nowhere"], 3, "nowhere"),
        (["fine-tuning", "--model", "./nowhere.pth"], 3, "nowhere.pth"),
        (["fine-tuning", "--device", "cuda:7"], 5, "--device"),
        (["fine-tuning", "--mlflow-path", "gopher://x"], 2, "gopher"),
        (["fine-tuning", "--freeze", "9"], 2, "0 to 3"),
        (["datasets", "mnits"], 2, "nearest: mnist"),
        (["splits", "check", "./nowhere"], 3, "nowhere"),
        (["feature-extraction", "--classifier", "svmm"], 2, "nearest"),
        (["feature-extraction", "--embedding", "fnee"], 2, "nearest: fne"),
        (["feature-extraction", "--layers", "9"], 2, "9"),
        (["extract", "--reduce", "poold"], 2, "nearest: pooled"),
        (["dumps", "verify", "abc"], 3, "abc"),
    ],
)
def test_a_wrong_word_gets_one_line_and_its_exit_code(
    words, code, says, capsys, tmp_path, monkeypatch, cache
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TLX_CACHE", str(cache))
    assert tlx(*words) == code
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("tlx-runs/trials/*"))


def test_datasets_and_backbones_are_listed(capsys):
    assert tlx("datasets") == 0
    assert "flowers102" in capsys.readouterr().out
    assert tlx("datasets", "CUB200") == 0
    assert "test" in capsys.readouterr().out
    assert tlx("backbones") == 0
    assert "mnist-cnn" in capsys.readouterr().out
    assert tlx("backbones", "resnet18") == 0
    assert "layer4.1" in capsys.readouterr().out


def test_a_bug_is_said_in_one_line_with_its_traceback_in_a_file(
    monkeypatch, capsys, tmp_path, cache
):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path))
    monkeypatch.setattr("tlx.data.catalogue.DATASETS", None)
    assert tlx("datasets") == 1
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    log = re.search(r"(\S+\.log)", error).group(1)
    assert "Traceback" in Path(log).read_text()
