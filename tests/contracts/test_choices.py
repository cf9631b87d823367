"""Every choice that an option offers runs, in every command that offers it."""

from __future__ import annotations

import itertools

import pytest
import typer
import undrawn
from cli.test_image_rules import COMMANDS, FEW, WORDS, ask, evaluate
from conftest import draw_images

from tlx.cli import app

TRANSFORMER = ("--architecture", "timm:test_vit", "--source", "random")
# (option, choice) → what it needs; run by a test of its own below, or one that is named
ELSEWHERE = {
    ("reduce", "first-token"): "a transformer",
    (
        "engine",
        "dask",
    ): "a cluster; tests/contracts/test_engines.py, tests/studies/test_on_clusters.py",
    ("engine", "ray"): "the same",
    **{
        ("replica_processes", size): "processes of a trial; tests/studies/test_replicas.py"
        for size in "1248"
    },
    ("rule", "original"): "one of four networks; tests/metrics/test_parameter_distance.py",
    ("recipe", "imagenet"): "the size of an original; tests/studies/test_recipes.py",
    ("recipe", "thesis-vgg"): "the size of an original; tests/studies/test_recipes.py",
    ("recipe", "mobilenet"): "the size of an original; tests/studies/test_recipes.py",
    (
        "protocol",
        "thesis",
    ): "days; the plan that it makes is tested in tests/studies/test_checkpoints.py",
}
SEARCH = "tune"
NEEDS = {  # option or choice → what else it is given
    "stopping": ("--early-stopping", 1),
    "halves": ("--source", "half"),
    "bn": ("--freeze", 1),
    "accuracy,energy": ("--watts", 10),  # a machine without counters is told what a core takes
}


def offered(command: str) -> dict[str, list[str]]:
    """Option → its choices, as the help of a command shows them."""
    parameters = typer.main.get_command(app.app).commands[command].params
    choices = {
        p.name: p.metavar.split("|")
        for p in parameters
        if p.metavar and "|" in p.metavar and not p.metavar.isupper()  # KEY|MODEL: what, not which
    }
    here = {name: [c for c in some if (name, c) not in ELSEWHERE] for name, some in choices.items()}
    return {name: some for name, some in here.items() if some}


def runs(command: str) -> list[dict[str, str]]:
    """As few runs as have each choice of each option once: the n-th run takes the n-th of each, in
    a circle.
    """
    choices = offered(command)
    most = max((len(some) for some in choices.values()), default=0)
    return [
        {name: some[number % len(some)] for name, some in choices.items()} for number in range(most)
    ]


def words(chosen: dict[str, str]) -> list[str | int]:
    return list(
        itertools.chain.from_iterable(
            (f"--{name.replace('_', '-')}", value, *NEEDS.get(name, ()))
            for name, value in chosen.items()
        )
    )


CASES = [
    (name, number)
    for name in COMMANDS
    if " " not in name and name != SEARCH
    for number in range(len(runs(name)))
]


@pytest.mark.slow
def test_every_command_with_choices_is_in_the_table():
    known = typer.main.get_command(app.app).commands
    with_choices = {
        name for name, command in known.items() if hasattr(command, "params") and offered(name)
    }
    assert with_choices - set(COMMANDS) == {
        "plot",
        "checkpoints",
        "regression",
        "evaluate",
        "sync",
    }, "these have tests of their own"


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """Three classes, with a folder for each split, since one option chooses among them."""
    return draw_images(
        tmp_path_factory.mktemp("data") / "divided", per_class=6, splits=("train", "val", "test")
    )


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """The same of four classes, which make two halves."""
    return draw_images(
        tmp_path_factory.mktemp("data") / "four",
        classes=4,
        per_class=6,
        splits=("train", "val", "test"),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("command", "number"), CASES)
def test_every_choice_runs(tlx, four, command, number):
    chosen = runs(command)[number]
    code, out, complained = ask(tlx, command, four, *words(chosen))
    assert code == 0, f"{chosen}: {complained or out}"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(runs("evaluate"))))
def test_every_choice_of_an_evaluation_runs(tlx, divided, number):
    chosen = runs("evaluate")[number]
    code, out, complained = evaluate(tlx, divided, "--val-per-class", 2, *words(chosen))
    assert code == 0, f"{chosen}: {complained or out}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "value"),
    [
        (option, value)
        for option in ("sampler", "pruner", "objective")
        for value in offered(SEARCH)[option]
    ],
)
def test_every_choice_of_a_search_runs(tlx, divided, option, value):
    """Of its own options; the others are those of the studies that it searches."""
    others = {
        name: some
        for name, some in offered(SEARCH).items()
        if name not in ("sampler", "pruner", "objective")
    }
    both = {**offered("feature-extraction"), **offered("fine-tuning")}
    assert others == {name: both[name] for name in others}
    figures = () if option == "objective" else undrawn.WORDS
    code, out, complained = tlx(
        "tune",
        *FEW,
        "--trials",
        2,
        *WORDS,
        *figures,
        "--dataset",
        divided,
        f"--{option}",
        value,
        *NEEDS.get(value, ()),
    )
    assert code == 0, f"{option} {value}: {complained or out}"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["feature-extraction", "extract", "analyze", "atlas"])
def test_first_tokens_of_a_transformer(tlx, divided, command):
    first, *rest = COMMANDS[command]
    rest = [word for word in rest if word != "mnist"]
    if command != "extract":  # it has no figures
        rest += undrawn.WORDS
    code, out, complained = tlx(
        first, *rest, "--dataset", divided, *TRANSFORMER, "--reduce", "first-token"
    )
    assert code == 0, complained or out


@pytest.mark.slow
def test_the_chain_offers_the_dissimilarities_of_the_analysis_and_passes_them_on(tlx, divided):
    assert offered("checkpoints")["rdm"] == offered("analyze")["rdm"] == offered("atlas")["rdm"]
    code, out, complained = tlx(
        "checkpoints",
        "--sources",
        divided,
        "--targets",
        divided,
        "--seeds",
        1,
        "--epochs",
        1,
        "--checkpoints",
        "0,1",
        "--from-checkpoints",
        "all",
        "--val-per-class",
        2,
        "--fine-tune-epochs",
        1,
        "--fine-tune-checkpoints",
        "0,1",
        "--samples",
        6,
        *WORDS,
        *undrawn.WORDS,
        "--rdm",
        "sqeuclidean",
    )
    assert code == 0, complained or out
