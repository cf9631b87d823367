"""Examples that the documentation marks with `<!-- run -->` run, in the order of their page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from docs.pages import PAGES, ROOT, Block, blocks

API = ("tlx.run(", "tlx.plan(", "tlx.Store(", "store.", "plan", "tlx.load_backbone(")
MARKED = [page for page in PAGES if any(block.is_run for block in blocks(page))]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Variables of the commands: this installation first, one cache for all pages."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cache = str(tmp_path_factory.mktemp("cache"))
    return os.environ | {"PATH": path, "TLX_CACHE": cache, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.stem)
def test_the_marked_examples_of_a_page_run(page, environment, tmp_path):
    skipped = []
    code = []  # Python blocks of a page are one program: a later one uses names of an earlier one
    for block in filter(lambda block: block.is_run, blocks(page)):
        if block.language == "python" and reason_to_skip(block):
            skipped.append(reason_to_skip(block))
        elif block.language == "python":
            code.append(block.code)
            run([sys.executable, "-c", "\n".join(code)], tmp_path, environment)
        else:
            run(["bash", "-euo", "pipefail", "-c", block.code], tmp_path, environment)
    if skipped:
        pytest.skip(skipped[0])


def reason_to_skip(block: Block) -> str:
    """Say why a block cannot run with this version of the package; empty where it can."""
    import tlx

    if not hasattr(tlx, "run") and any(name in block.code for name in API):
        return "tlx.run is not in this version of the package"
    return ""


def run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run a command in a folder; fail with what it printed where it does not end well."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_every_language_that_is_marked_to_run_can_be_run():
    languages = {block.language for page in MARKED for block in blocks(page) if block.is_run}
    assert languages == {"python", "bash"}


def test_the_readme_shows_a_command_and_a_python_call():
    languages = {block.language for block in blocks(ROOT / "README.md")}
    assert {"python", "bash"} <= languages
