"""Searches without science: spaces as strict as they say, every sampler by one contract, every
storage the same trials.
"""

from __future__ import annotations

import json
from dataclasses import replace

import optuna
import pytest
from lab import tiny_search
from lab.tiny_search import SPACE, SPLITS

from tlx import files
from tlx.errors import BadDataError, ResourceError, TlxError, UnknownNameError, UsageError
from tlx.lab.store import Store
from tlx.lab.tuning import api as tuning_api
from tlx.lab.tuning import records as tuning_records
from tlx.lab.tuning import samplers as tuning_samplers
from tlx.lab.tuning.samplers import SAMPLERS
from tlx.lab.tuning.space import Parameter, Space, declared
from tlx.lab.tuning.storage import JournalFile, StorageLocation
from tlx.spec import Spec, setting

# what must agree when the same trials are asked for again
SAME = ("number", "values", "state", "objectives", "reports", "by_split", "configuration", "system")


def same(found):
    return [{name: getattr(t, name) for name in SAME} for t in found]


# ---------------------------------------------------------------- spaces


def test_a_conditional_parameter_is_drawn_where_it_applies():
    values = SPACE.draw(lambda one: "flat" if one.name == "kind" else one.default)
    assert values == {"kind": "flat", "flat.y": 1.0}
    assert SPACE.default() == {"kind": "round", "round.x": 1.0, "round.n": 8}
    grid = SPACE.grid()
    assert len(grid) == 5 * 5 + 5 + 1
    assert {"kind": "bad"} in grid
    assert [v["round.n"] for v in grid[:5]] == [1, 3, 8, 23, 64], (
        "whole numbers, evenly by logarithm"
    )


def test_picked_by_name_with_what_belongs_to_it():
    def names(*asked):
        return [one.name for one in SPACE.picked(asked).parameters]

    assert names("kind") == ["kind", "round.x", "round.n", "flat.y"]
    assert names("flat.y") == ["kind", "flat.y"]
    kind = SPACE.picked(["flat.y"]).parameters[0]
    assert (kind.choices, kind.default) == (("flat",), "flat")
    assert SPACE.picked(["flat.y", "round.n"]).parameters[0].choices == ("round", "flat")
    with pytest.raises(UnknownNameError, match=r"nearest: flat\.y"):
        names("flat.x")


def test_narrowed_by_a_file():
    space = SPACE.narrowed(
        {"kind": ["round"], "round.x": {"low": 0, "high": 2, "steps": 3}, "round.n": [1, 2]}
    )
    assert [one.name for one in space.parameters] == ["kind", "round.x", "round.n"], (
        "flat.y applies nowhere now"
    )
    assert len(space.grid()) == 6
    assert space.narrowed({"round.x": {"low": -9}}).parameters[1].low == -9, (
        "wider, up to what is declared"
    )


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"knid": ["round"]}, UnknownNameError, "nearest: kind"),
        ({"kind": ["roud"]}, UnknownNameError, "nearest: round"),
        ({"kind": []}, BadDataError, "no choice"),
        ({"kind": {"low": 1}}, BadDataError, "has choices, no range"),
        ({"kind": "round"}, BadDataError, r'expected \{"kind"'),
        ({"round.x": {"low": -10}}, UsageError, "from -9 to 9"),
        ({"round.x": {"low": "1"}}, BadDataError, "a number"),
        ({"round.x": {"low": True}}, BadDataError, "a number"),
        ({"round.x": {"lo": 1}}, UnknownNameError, "nearest: low"),
        ({"round.x": {"low": 2, "high": 1}}, BadDataError, "low below high"),
        ({"round.x": {"log": True}}, BadDataError, "above 0"),
        ({"round.x": {"steps": 0}}, BadDataError, "steps a whole number"),
        ({"round.x": [1, 100]}, UsageError, "from -9 to 9"),
        ({"round.n": {"low": 1.5}}, BadDataError, "a whole number"),
    ],
    ids=str,
)
def test_a_bad_space_is_refused_with_what_to_type(change, kind, words):
    with pytest.raises(kind, match=words) as caught:
        SPACE.narrowed(change, "my.json")
    assert caught.value.exit_code in (2, 3)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(TlxError, match=r"(?s)knid.*low below high"):
        SPACE.narrowed({"knid": [1], "round.x": {"low": 2, "high": 1}})


def test_a_space_is_what_the_settings_declare():
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Odd(Spec):
        C: float = setting(1.0, low=1e-3, high=1e3, log=True)
        k: int = setting(3, low=1, high=200)
        kernel: str = setting("rbf", choices=("rbf", "poly"))
        gamma: float | None = setting(None, low=0.1, high=2.0)
        shrink: bool = setting(False)
        tol: float = setting(1e-3, low=1e-9, high=1, search=False)
        rate: float = setting(0.5, low=0, high=100, search=(0.1, 10, "log"))
        free: str = setting("a")
        most: int = setting(1, low=1)

    found = {one.name: one for one in declared(Odd, "odd.", ("which", ("odd",)), at_most={"k": 20})}
    assert set(found) == {
        f"odd.{n}" for n in ("C", "k", "kernel", "gamma.by", "gamma", "shrink", "tol", "rate")
    }
    assert (found["odd.k"].high, found["odd.k"].whole, found["odd.k"].default) == (20, True, 3)
    assert found["odd.gamma"].when == ("odd.gamma.by", ("value",))
    assert found["odd.gamma.by"].default == "default"
    assert found["odd.tol"].by_name_only
    rate = found["odd.rate"]
    assert (rate.low, rate.high, rate.log, rate.bounds) == (0.1, 10, True, (0, 100))


def test_a_grid_that_is_too_large_is_refused():
    wide = Space(tuple(Parameter(f"p{i}", low=0, high=1, steps=100) for i in range(6)))
    with pytest.raises(UsageError, match="100,000"):
        wide.grid()


# ---------------------------------------------------------------- the contract of every sampler


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler(name, tmp_path):
    """Inside the space · the same again · stopped and continued as if it had not been · nothing
    added at the end.
    """
    if name == "cmaes":
        pytest.importorskip("cmaes")
    asked = tiny_search.search(sampler=name, trials=16)
    whole = tiny_search.run(asked, tmp_path / "whole")
    assert [t.number for t in whole] == list(range(16))
    known = {one.name: one for one in SPACE.parameters}
    for tried in whole:
        drawn = SPACE.draw(lambda one, values=tried.values: values[one.name])
        assert drawn == tried.values
        assert all(known[n].holds(v) or isinstance(v, float) for n, v in tried.values.items())
    assert len({json.dumps(t.values) for t in whole}) > 6
    parts = tmp_path / "parts"
    for trials in (5, 6, 13, 16, 16):
        found = tiny_search.run(tiny_search.search(sampler=name, trials=trials), parts)
        assert len(found) == trials
    assert same(found) == same(whole)
    if name != "grid":
        assert whole[0].values == SPACE.default(), (
            "the first trial is what stands there without a search"
        )
        other = tiny_search.run(
            tiny_search.search(sampler=name, trials=16, seed=1, key="6" * 64), tmp_path / "other"
        )
        assert same(other)[1:] != same(whole)[1:]


def test_a_grid_ends_by_itself(tmp_path):
    asked = tiny_search.search(sampler="grid", trials=1000)
    assert asked.wanted == 31
    found = tiny_search.run(asked, tmp_path)
    assert [t.values for t in found] == SPACE.grid()


def test_a_sampler_that_needs_a_package_names_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cmaes", None)
    with pytest.raises(ResourceError, match="pip install cmaes"):
        tuning_samplers.check("cmaes")
    with pytest.raises(UnknownNameError, match="nearest: tpe"):
        tuning_samplers.check("tep")


# ---------------------------------------------------------------- storages hold nothing that cannot
# be rebuilt


@pytest.mark.slow
@pytest.mark.parametrize("address", ["", "sqlite:///{}/search.db", "{}/mine.journal"])
def test_a_deleted_storage_is_made_anew_without_a_fit(tmp_path, address):
    asked = tiny_search.search(storage=address.format(tmp_path), trials=10)
    log = tmp_path / "log"
    first = tiny_search.run(asked, tmp_path / "root", inputs={"log": str(log)})
    fits = log.read_text()
    path = asked.place(tmp_path / "root").path
    path.unlink()
    again = tiny_search.run(asked, tmp_path / "root", inputs={"log": str(log)})
    assert same(again) == same(first)
    assert log.read_text() == fits
    assert path.is_file()
    more = tiny_search.run(tiny_search.search(storage=asked.storage, trials=14), tmp_path / "root")
    straight = tiny_search.run(tiny_search.search(trials=14), tmp_path / "straight")
    assert same(more) == same(straight), "and is continued as if nothing had happened"


def test_the_journal_is_read_by_optunas_own_backend(tmp_path):
    asked = tiny_search.search(trials=6)
    found = tiny_search.run(asked, tmp_path)
    backend = optuna.storages.journal.JournalFileBackend(str(asked.place(tmp_path).path))
    study = optuna.load_study(
        study_name=asked.name, storage=optuna.storages.JournalStorage(backend)
    )
    assert [t.params for t in study.trials] == [t.values for t in found]


def test_a_torn_line_is_cut_off_and_a_damaged_journal_set_aside(tmp_path):
    asked = tiny_search.search(trials=8)
    first = tiny_search.run(asked, tmp_path)
    path = asked.place(tmp_path).path
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    assert same(tiny_search.run(asked, tmp_path)) == same(first)
    path.write_bytes(data[:300] + b"\0" * 60 + data[360:])
    assert same(tiny_search.run(asked, tmp_path)) == same(first)
    assert path.with_name(path.name + ".damaged").exists()
    assert JournalFile(path).read_logs(0)


@pytest.mark.parametrize(
    "content", [b"dear diary\nnothing happened\n", b"one line without an end", b"[1, 2]\n", b"\n"]
)
def test_a_file_that_is_no_journal_of_optuna_is_refused_and_left_as_it_was(tmp_path, content):
    path = tmp_path / "diary.journal"
    path.write_bytes(content)
    with (
        pytest.raises(BadDataError, match="no journal of Optuna") as caught,
        StorageLocation(str(path), "x").open(),
    ):
        pass
    assert caught.value.exit_code == 3
    assert path.read_bytes() == content
    assert {p.name for p in tmp_path.iterdir()} <= {"diary.journal", "diary.journal.lock"}


def test_a_file_that_is_no_database_is_refused_as_a_storage(tmp_path):
    path = tmp_path / "search.db"
    path.write_bytes(b"no database" * 1000)
    with (
        pytest.raises(BadDataError, match="not a database") as caught,
        StorageLocation(f"sqlite:///{path}", "x").open(),
    ):
        pass
    assert caught.value.exit_code == 3
    assert path.read_bytes() == b"no database" * 1000


def test_one_storage_has_one_lock_however_it_is_spelt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    spelt = [
        "sqlite:///search.db",
        "sqlite:///./search.db",
        f"sqlite:///{tmp_path}/search.db",
        f"sqlite:///{tmp_path}/link/search.db",
        "sqlite:///s%65arch.db?timeout=3",
    ]
    assert {StorageLocation(address, "x").path for address in spelt} == {tmp_path / "search.db"}


def test_one_durable_write_a_trial(tmp_path, monkeypatch):
    import os

    tuning_api.prepare(tiny_search.search(trials=30), tmp_path)
    tiny_search.run(tiny_search.search(trials=2), tmp_path)
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), real(fd)))
    tiny_search.run(tiny_search.search(trials=30), tmp_path)
    assert 28 <= len(synced) <= 30


@pytest.mark.parametrize("address", ["search.db", "ftp:///x", "http://"])
def test_an_address_that_is_none(address, tmp_path):
    with pytest.raises((UsageError, ResourceError)) as caught, StorageLocation(address, "x").open():
        pass
    assert caught.value.exit_code in (2, 5)


def test_a_server_that_is_away_is_said_without_its_password():
    pytest.importorskip("psycopg")
    with (
        pytest.raises(ResourceError, match="storage-unreachable") as caught,
        StorageLocation("postgresql://bob:s3cr3t@127.0.0.1:1/none", "x").turn(),
    ):
        pass
    assert "s3cr3t" not in str(caught.value)


# ---------------------------------------------------------------- what comes of trials


def test_a_known_configuration_costs_nothing(tmp_path):
    log = tmp_path / "log"
    grid = tiny_search.search(sampler="grid", trials=31)
    tiny_search.run(grid, tmp_path / "root", inputs={"log": str(log)})
    assert len(log.read_text().splitlines()) == 31
    again = tiny_search.search(sampler="grid", trials=31, key="7" * 64, pruner="none")
    found = tiny_search.run(again, tmp_path / "root", inputs={"log": str(log)})
    before = {t.configuration: t for t in tuning_api.completed_trials(grid, tmp_path / "root")}
    ran = [t for t in found if t.same_as is None]
    assert all(before[t.configuration].state == "pruned" for t in ran), (
        "given up then, wanted whole now"
    )
    assert all(t.spent_s == 0 for t in found if t.same_as is not None)


def test_halving_spares_most_splits_and_keeps_the_best(tmp_path):
    pruned = tiny_search.run(tiny_search.search(sampler="random", trials=40), tmp_path / "a")
    whole = tiny_search.run(
        tiny_search.search(sampler="random", trials=40, pruner="none"), tmp_path / "b"
    )
    assert [t.values for t in pruned] == [t.values for t in whole], (
        "random does not look at what came before"
    )
    fits = sum(len(t.by_split) for t in pruned)
    assert fits < 0.75 * 40 * SPLITS
    best = max((t for t in whole), key=lambda t: t.objectives[0])
    assert next(t for t in pruned if t.number == best.number).objectives == best.objectives
    assert all(len(t.by_split) == 1 for t in pruned if t.state == "pruned")


@pytest.mark.parametrize("second", ["time", "energy"])
def test_two_objectives(tmp_path, second):
    asked = tiny_search.search(objectives=("accuracy", second), trials=14, pruner="none")
    found = tiny_search.run(asked, tmp_path)
    assert all(len(t.objectives) == 2 for t in found)
    study = optuna.load_study(
        study_name=asked.name,
        storage=optuna.storages.JournalStorage(JournalFile(asked.place(tmp_path).path)),
    )
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", second]


def test_a_budget_stops_new_trials_of_this_and_later_commands(tmp_path):
    asked = tiny_search.search(trials=50, budget_s=2.0, pruner="none")
    found = tiny_search.run(asked, tmp_path)
    assert sum(t.spent_s for t in found[:-1]) < 2.0 <= sum(t.spent_s for t in found)
    assert len(tiny_search.run(asked, tmp_path)) == len(found), "asked again it is used up"
    assert len(
        tiny_search.run(tiny_search.search(trials=50, budget_j=40.0, pruner="none"), tmp_path)
    ) > len(found)


def test_failed_trials_count_and_are_told(tmp_path):
    inputs = {"fails": ("round", "flat", "bad")}
    found = tiny_search.run(tiny_search.search(trials=5), tmp_path, inputs=inputs)
    assert {t.state for t in found} == {"failed"}
    assert "unfit" in found[0].error
    again = tiny_search.run(tiny_search.search(trials=5), tmp_path)
    assert same(again) == same(found), "they are not tried again"


def test_importances_of_choices_and_of_their_own_settings(tmp_path):
    asked = tiny_search.search(sampler="random", trials=40, pruner="none")
    found = tuning_api.importances(asked, tiny_search.run(asked, tmp_path))
    assert found["kind"] == pytest.approx(1.0)
    assert found["round.x"] > found["round.n"]
    assert found == tuning_api.importances(asked, tuning_api.completed_trials(asked, tmp_path)), (
        "the same again"
    )


def test_every_trial_has_a_run_folder_made_from_its_line(tmp_path):
    found = tiny_search.run(tiny_search.search(trials=4), tmp_path)
    store = Store(tmp_path)
    for tried in found:
        tuning_records.keep(store, tried)
        tuning_records.keep(store, tried)
        result = store.find(tried.key)
        assert tuning_records.TrialRecord(**result.details) == tried
        assert result.status == tried.status


@pytest.mark.parametrize("pruner", ["halving", "median"])
@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_the_defaults_run_on_all_splits_though_every_other_trial_is_better(
    tmp_path, pruner, sampler
):
    """Trial 0 comes last here, as after a kill: with the others known, both pruners would give it
    up.
    """
    worst = {"round.x": 4.0, "round.n": 1}
    space = Space(tuple(replace(p, default=worst.get(p.name, p.default)) for p in SPACE.parameters))
    asked = tiny_search.search(space=space, pruner=pruner, sampler=sampler, trials=30)
    tiny_search.run(asked, tmp_path)
    (journal,) = (tmp_path / "searches" / asked.family).glob("*.journal")
    rows = [row for row in files.Journal.read(journal) if row["number"] != 0]
    journal.unlink()
    asked.place(tmp_path).path.unlink()
    with files.Journal(journal) as kept:
        for row in rows:
            kept.append(row)
    found = tiny_search.run(asked, tmp_path)
    assert asked.starts_with_defaults
    assert found[0].values == space.default()
    assert min(t.by_split[0] for t in found if t.by_split) == found[0].by_split[0], (
        "none is worse on the first split"
    )
    assert (found[0].state, len(found[0].by_split)) == ("complete", SPLITS)
    assert any(t.state == "pruned" for t in found), "others are given up"


def test_a_search_that_leaves_out_the_defaults_has_no_reference():
    narrowed = SPACE.narrowed({"round.x": {"low": 2, "high": 3}})
    assert not tiny_search.search(space=narrowed).starts_with_defaults
    assert not tiny_search.search(sampler="grid").starts_with_defaults, (
        "x = 1 is no point of the grid"
    )


@pytest.mark.parametrize("name", ["tpe", "random", "cmaes"])
@pytest.mark.parametrize("drawn", [0, 1, 2])
def test_a_trial_whose_process_died_between_two_draws_goes_on_with_the_next(name, drawn):
    """A new sampler, as in the next process, gives what one that was not cut off gives."""
    pytest.importorskip("cmaes")
    names = ("a", "b", "c")

    def study_of(trials: int) -> optuna.Study:
        sampler = tuning_samplers.Seeded(name, 3, SPACE)
        study = optuna.create_study(sampler=sampler)
        study.add_trial(optuna.create_trial(value=0.0))  # the first is the default configuration
        for _ in range(trials):
            trial = study.ask()
            study.tell(trial, sum(trial.suggest_float(n, 0.0, 1.0) for n in names))
        return study

    whole = study_of(15).trials[-1].params
    study = study_of(14)
    cut_off = study.ask()
    for n in names[:drawn]:
        cut_off.suggest_float(n, 0.0, 1.0)
    study.sampler = tuning_samplers.Seeded(name, 3, SPACE)
    again = optuna.trial.Trial(study, cut_off._trial_id)
    assert {n: again.suggest_float(n, 0.0, 1.0) for n in names} == whole
