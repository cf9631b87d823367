"""What the documentation names exists: commands, options, entry points, files, codes of errors."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from docs.pages import DOCS, PAGES, ROOT, commands

from tlx.cli.app import app

PARSERS = typer.main.get_command(app).commands
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def tool(name: str):
    """Return a module of docs/_tools."""
    spec = importlib.util.spec_from_file_location(f"docs_tool_{name}", DOCS / f"_tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    html = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")]
    fetched = re.compile(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?(https?:)?//[^>]*>")
    assert not [hit[0] for text in html for hit in fetched.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_on_a_page_exists_with_its_options(page):
    for words in commands(page):
        if words[0] == "tlx" and len(words) > 1:
            assert words[1] in PARSERS, words
            check_options(words[1:])


def check_options(words: list[str]) -> None:
    """Fail where a command has not one of the options among its words."""
    parser, name = PARSERS[words[0]], words[0]
    if hasattr(parser, "commands"):
        parser, name = parser.commands[words[1]], f"{words[0]} {words[1]}"
    known = {"--help", *(o for p in parser.params for o in (*p.opts, *p.secondary_opts))}
    asked = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert asked <= known, f"tlx {name} has no {asked - known}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_entry_point_on_a_page_is_one_of_the_project(page):
    entries = re.findall(r"^  (\w+):$", (ROOT / "MLproject").read_text(), re.MULTILINE)
    for words in commands(page):
        if words[:3] == ["mlflow", "run", "."] and "-e" in words:
            entry = words[words.index("-e") + 1]
            assert entry in entries or entry == "…", words


def test_every_command_has_a_page_with_every_option():
    reference = tool("reference")
    names = []
    for name, command in reference.commands_of():
        names.append(name)
        page = reference.command_page(name, command)
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                for option in (*parameter.opts, *parameter.secondary_opts):
                    assert f"`{option}`" in page, f"tlx {name} {option}"
    groups = {name: p for name, p in PARSERS.items() if hasattr(p, "commands")}
    members = {f"{name} {member}" for name, p in groups.items() for member in p.commands}
    assert set(names) == PARSERS.keys() - groups.keys() | members


def test_every_public_metric_has_an_entry():
    import tlx

    page = tool("reference").module_page("tlx.metrics", "")
    for name in tlx.metrics.__all__:
        assert f"heading: tlx.metrics.{name}\n" in page


def test_every_code_in_troubleshooting_is_one_that_the_program_gives():
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    codes = {code for cell in rows for code in re.findall(r"`([^`]+)`", cell)} - {"unknown-…"}
    sources = "\n".join(path.read_text() for path in (ROOT / "tlx").rglob("*.py"))
    assert len(codes) > 40
    assert [code for code in sorted(codes) if f'"{code}"' not in sources] == []


def test_every_file_that_the_contributor_guide_names_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:tlx|tests|docs|kernels|splits)/[\w./-]+)`", text))
    assert len(paths) > 15
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_every_figure_of_the_gallery_is_there_and_small():
    for figure in tool("gallery").FIGURES:
        picture = DOCS / "gallery" / f"{figure.name}.png"
        assert picture.read_bytes()[:4] == b"\x89PNG", picture
        assert picture.stat().st_size < 200_000, picture


def test_the_readme_is_short_and_points_to_the_documentation():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / target).exists(), target


def test_the_version_is_the_same_in_all_files():
    from tlx import __version__

    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_packages_carry_the_licence():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "MIT"
    assert project["license-files"] == ["LICENSE"]
    assert Path(ROOT / "LICENSE").read_text().startswith("MIT License")
