"""Places that cannot be written to are refused before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tlx import errors
from tlx.lab import outputs
from tlx.lab.settings import Settings
from tlx.studies import STUDIES
from tlx.studies.activations_spec import ExtractionOutput
from tlx.studies.compare.spec import CompareGrid

NAMES = {
    "out",
    "random_out",
    "export",
    "extracted",
    "store",
    "cache",
    "corr_dict",
}  # of what is written
SPECS = {
    **{(name, spec): spec for name, row in STUDIES.items() for spec in (*row.specs, Settings)},
    ("extract", ExtractionOutput): ExtractionOutput,
    ("extract", Settings): Settings,
}
WRITTEN = sorted(
    {
        (name, setting)
        for (name, spec) in SPECS
        for setting, row in spec.settings().items()
        if row.writes and row.cli
    }
)


def test_every_setting_that_names_an_output_says_so():
    for (name, spec), _ in SPECS.items():
        for setting, row in spec.settings().items():
            if row.cli:
                assert (setting in NAMES) == (row.writes in ("file", "folder")), (name, setting)


@pytest.mark.parametrize(("name", "setting"), WRITTEN)
def test_an_output_is_refused_before_the_images_are_looked_for(name, setting, tlx, tmp_path):
    (tmp_path / "afile").write_text("kept")
    option = f"--{setting.replace('_', '-')}"
    where = tmp_path / "afile" / "in" / "it.pth"
    data = "--targets" if name == "checkpoints" else "--dataset"
    words = (name, data, tmp_path / "nowhere", "--no-tracking")
    if name == "extract":
        words = words[:-1]
    code, out, err = tlx(*words, option, where)
    assert code == 3, out + err
    assert f"error[not-a-folder] {option} {where}" in err
    assert f"choose another place with {option}" in err
    assert "nowhere" not in err.replace(str(where), "")
    assert (tmp_path / "afile").read_text() == "kept"


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("fine-tuning", "--dataset", "nowhere", "--mlflow-path", "WHERE/x.db"), "--mlflow-path"),
        (("plot", "nothing", "--out", "WHERE"), "--out"),
        (("plot", "nothing.csv", "--out", "WHERE"), "--out"),
        (("regression", "nothing.csv", "--out", "WHERE"), "--out"),
        (("export", "nothing", "--out", "WHERE"), "--out"),
        (("export", "nothing", "--cache", "WHERE"), "--cache"),
        (("predict", "nothing", "nothing.png", "--out", "WHERE/in"), "--out"),
        (("predict", "nothing", "nothing.png", "--cache", "WHERE"), "--cache"),
        (("splits", "draw", "WHERE", "--dataset", "nowhere"), "OUT"),
        (("crops", "WHERE", "--dataset", "nowhere"), "OUT"),
        (("check", "--dataset", "nowhere", "--cache", "WHERE"), "--cache"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_so_it_is_of_commands_that_are_no_studies(words, option, tlx, tmp_path):
    (tmp_path / "afile").write_text("kept")
    where = str(tmp_path / "afile")
    more = ("--store", tmp_path / "runs") if words[0] == "fine-tuning" else ()
    code, out, err = tlx(*(word.replace("WHERE", where) for word in words), *more)
    assert code == 3, out + err
    assert f"error[not-a-folder] {option} {where}" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, which takes no files")
@pytest.mark.parametrize("place", ["/proc/new", "/proc/new/deeper/x", "/proc/self/new.html"])
@pytest.mark.parametrize("kind", [outputs.FILE, outputs.FOLDER])
def test_a_file_system_that_takes_no_files_is_no_fault_in_tlx(kind, place):
    problem = outputs.problem_of(kind, Path(place), "--out")
    assert problem.exit_code in (3, 5)
    assert problem.where == f"--out {place}"
    assert "--out" in problem.remedy


@pytest.mark.parametrize("kind", [outputs.FILE, outputs.FOLDER])
def test_what_can_be_written_is_not_created(kind, tmp_path):
    assert outputs.problem_of(kind, tmp_path / "a" / "b" / "c", "--out") is None
    assert not list(tmp_path.iterdir())


def test_files_and_folders_are_told_apart(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert outputs.problem_of(outputs.FILE, tmp_path / "file", "--out") is None
    assert outputs.problem_of(outputs.FOLDER, tmp_path / "file", "--out").code == "not-a-folder"
    assert outputs.problem_of(outputs.FILE, tmp_path, "--out").code == "not-a-file"
    assert outputs.problem_of(outputs.FILE, Path("/dev/null"), "--out").code == "not-a-file"
    assert outputs.problem_of(outputs.FOLDER, tmp_path / "link", "--out").code == "not-a-folder"
    name = "n" * 300
    assert outputs.problem_of(outputs.FOLDER, tmp_path / name, "--out").code == "name-length"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    assert outputs.problem_of(outputs.FILE, tmp_path / "closed" / "x", "--out").exit_code == 5


def test_a_read_only_file_system_is_refused(tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(30, "Read-only file system", str(tmp_path))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    problem = outputs.problem_of(outputs.FOLDER, tmp_path / "new", "--out")
    assert (problem.code, problem.exit_code) == ("permission", 5)


def test_all_outputs_that_cannot_be_written_are_named_at_once(tmp_path):
    (tmp_path / "afile").write_text("kept")
    place = str(tmp_path / "afile" / "in")
    with pytest.raises(errors.ErrorGroup) as refused:
        outputs.check([CompareGrid(out=place), Settings(cache=place)])
    assert [problem.where.split()[0] for problem in refused.value.problems] == ["--out", "--cache"]
