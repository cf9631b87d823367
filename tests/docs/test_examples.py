"""Examples that the documentation marks with `<!-- run -->` run, in the order of their page."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import processes
import pytest
from docs.pages import PAGES, ROOT, Block, blocks

API = ("tlx.run(", "tlx.plan(", "tlx.Store(", "tlx.load_backbone(")
MARKED = [page for page in PAGES if any(block.is_run for block in blocks(page))]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Variables of the commands: this installation first, one cache for all pages."""
    cache = str(tmp_path_factory.mktemp("cache"))
    with tempfile.TemporaryDirectory() as folder, processes.shell_command(Path(folder)):
        path = os.pathsep.join((folder, str(Path(sys.executable).parent), os.environ["PATH"]))
        yield os.environ | {"PATH": path, "TLX_CACHE": cache, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.stem)
def test_the_marked_examples_of_a_page_run(page, environment, tmp_path):
    skipped: list[str] = []
    for command in programs(page, skipped):
        done = processes.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    if skipped:
        pytest.skip(skipped[0])


def programs(page: Path, skipped: list[str]) -> list[list[str]]:
    """Return the commands that run a page's blocks in order; append to `skipped` what cannot run.

    Python blocks of a page are one program: a later one uses the names of an earlier one. It is
    run before a shell block that follows, and at the end.
    """
    commands: list[list[str]] = []
    code: list[str] = []
    is_waiting = False
    for block in filter(lambda block: block.is_run, blocks(page)):
        if block.language == "python" and reason_to_skip(block):
            skipped.append(reason_to_skip(block))
        elif block.language == "python":
            code.append(block.code)
            is_waiting = True
        else:
            if is_waiting:
                commands.append([sys.executable, "-c", "\n".join(code)])
                is_waiting = False
            commands.append(["bash", "-euo", "pipefail", "-c", block.code])
    if is_waiting:
        commands.append([sys.executable, "-c", "\n".join(code)])
    return commands


def reason_to_skip(block: Block) -> str:
    """Say why a block cannot run with this version of the package; empty where it can."""
    import tlx

    if not hasattr(tlx, "run") and any(name in block.code for name in API):
        return "tlx.run is not in this version of the package"
    return ""


def test_every_language_that_is_marked_to_run_can_be_run():
    languages = {block.language for page in MARKED for block in blocks(page) if block.is_run}
    assert languages == {"python", "bash"}


def test_the_readme_shows_a_command_and_a_python_call():
    languages = {block.language for block in blocks(ROOT / "README.md")}
    assert {"python", "bash"} <= languages
