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
from tlx.lab.settings import Figures, Settings
from tlx.studies import STUDIES
from tlx.studies.activations_spec import Extraction, ExtractionOutput

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


SETTINGS_OF = [
    (kind, name) for name, study in STUDIES.items() for kind in (*study.specs, Settings, Figures)
] + [(Extraction, "extract"), (ExtractionOutput, "extract")]


@pytest.mark.parametrize(("kind", "command"), SETTINGS_OF)
def test_every_setting_says_what_it_means_and_has_an_option(kind, command, capsys):
    for name, row in kind.settings().items():
        if row.cli:
            assert row.help, f"{kind.__name__}.{name} has no help"
    tlx(command, "--help")
    text = capsys.readouterr().out
    missing = [
        n
        for n, row in kind.settings().items()
        if row.cli and f"--{n.replace('_', '-')}" not in text
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


def test_mlproject_is_what_the_studies_say():
    """It is written by `python -m tlx.studies.mlproject > MLproject`."""
    from tlx.studies import STUDIES, mlproject

    text = (ROOT / "MLproject").read_text()
    assert text == mlproject.render()
    yaml = pytest.importorskip("yaml")
    project = yaml.safe_load(text)
    assert project["databricks_spark_job"] == {}
    assert not {"python_env", "conda_env", "docker_env"} & set(project)
    names = {name.replace("-", "_") for name in STUDIES} | {"extract"}
    assert set(project["entry_points"]) == names
    for entry, row in project["entry_points"].items():
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
