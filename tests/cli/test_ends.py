"""How a command ends: a pipe that closes, output that is full or closed, signals, and what may be
printed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import processes
import pytest

from tlx import cli
from tlx.cli import output

TLX = [sys.executable, "-m", "tlx"]
SHORT = {  # every command that lists or ends without a study → its words
    "help": ["--help"],
    "version": ["--version"],
    "datasets": ["datasets"],
    "backbones": ["backbones"],
    "backbone": ["backbones", "mnist-cnn"],
    "regression": ["regression"],
    "dumps": ["dumps", "ls"],
}
TINY = [
    "--shots",
    "1",
    "--splits",
    "1",
    "--val-per-class",
    "3",
    "--epochs",
    "1",
    "--no-use-crops",
    "--workers",
    "0",
    "--no-tracking",
]


def run(words, tmp_path, cache, **options):
    env = os.environ | {"TLX_CACHE": str(cache)} | options.pop("env", {})
    return processes.run([*TLX, *map(str, words)], cwd=tmp_path, env=env, **options)


def text_of(done):
    return (done.stderr or b"").decode(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_reader_that_is_gone_ends_a_command_with_141(name, tmp_path, cache):
    read, write = os.pipe()
    os.close(read)
    done = run(SHORT[name], tmp_path, cache, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, text_of(done)) == (141, "")


@pytest.mark.slow
def test_a_reader_that_is_gone_ends_a_study_with_141(tmp_path, cache, bars):
    read, write = os.pipe()
    os.close(read)
    done = run(
        ["fine-tuning", "--dataset", bars, *TINY],
        tmp_path,
        cache,
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert (done.returncode, text_of(done)) == (141, "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("name", SHORT)
def test_output_that_is_full_is_a_sentence(name, tmp_path, cache):
    with open("/dev/full", "w") as full:
        done = run(SHORT[name], tmp_path, cache, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 5, text_of(done)
    assert "standard output cannot be written to" in text_of(
        done
    ) or "no space to write" in text_of(done)
    assert "Traceback" not in text_of(done)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "closed"),
    [*((name, (0, 1, 2)) for name in SHORT), ("datasets", (1,)), ("datasets", (1, 2))],
    ids=str,
)
def test_closed_streams_change_no_exit_code(name, closed, tmp_path, cache):
    redirections = " ".join(f"{number}{'<' if not number else '>'}&-" for number in closed)
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *TLX, *SHORT[name]],
        cwd=tmp_path,
        env=os.environ | {"TLX_CACHE": str(cache)},
        stderr=subprocess.PIPE,
    )
    assert (done.returncode, text_of(done)) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_every_stream_takes_every_character(encoding, tmp_path, cache):
    done = run(
        ["regression"],
        tmp_path,
        cache,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0, text_of(done)
    assert done.stdout.decode(encoding)


@pytest.mark.slow
def test_an_accented_folder_is_read_in_the_c_locale(tmp_path, cache, bars):
    (tmp_path / "donnÉes").symlink_to(bars)
    done = run(
        ["check", "--dataset", "donnÉes", "--shots", 1, "--splits", 1, "--val-per-class", 3],
        tmp_path,
        cache,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )
    assert done.returncode == 0, text_of(done)
    done.stdout.decode("ascii")


WAITING = """
import os, signal, sys
from tlx import cli
from tlx.studies.fine_tuning import plan
def wait(*args, **kwargs):
    os.kill(os.getpid(), signal.{name})
    signal.pause()
plan.look_at_fine_tuning = wait
sys.argv = ["tlx", "check"]
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", -signal.SIGTERM)])
def test_a_signal_while_images_are_read(name, code, tmp_path, cache):
    """A shell shows the death by signal n as 128 + n."""
    done = processes.run(
        [sys.executable, "-c", WAITING.format(name=name)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        env=os.environ | {"TLX_CACHE": str(cache)},
    )
    assert done.returncode == code, text_of(done)
    assert "Traceback" not in text_of(done)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_that_only_knows_that_it_is_to_stop_ends_with_the_number_of_the_signal(number):
    """What extracts and trains hears of no signal; it raises Stopped with a number of its own."""
    from tlx.errors import Stopped
    from tlx.lab import signals

    def extract():
        with signals.graceful() as stopping:
            os.kill(os.getpid(), number)
            assert stopping()
            raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped) as caught:
        extract()
    assert caught.value.exit_code == 128 + number


# ---------------------------------------------------------------- what may be printed

ESCAPE = "\x1b]0;owned\x07\x1b[2J"


def test_nothing_in_the_command_line_prints_but_one_function():
    """Everything goes through `say`, which escapes what drives a terminal."""
    for path in sorted(Path(cli.__file__).parent.glob("*.py")):
        if path.name != "output.py":
            text = re.sub(r"console\.print\(\s*escape_control\(", "", path.read_text())
            assert "print(" not in text, path


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["check"],
        ["splits", "draw", "csvs"],
        ["crops", "made", "--size", "8"],
        ["extract", "--layers", "last"],
        ["fine-tuning", *TINY],
    ],
    ids=lambda w: w[0],
)
def test_an_escape_in_a_class_or_folder_name_reaches_no_terminal(words, tlx, tmp_path, cache):
    from conftest import draw_images

    root = draw_images(tmp_path / f"data{ESCAPE}", per_class=6, splits=("train", "test"))
    for side in ("train", "test"):
        (root / side / "bar0").rename(root / side / f"bar{ESCAPE}")
    few = (
        ["--shots", "1", "--splits", "1", "--val-per-class", "3"]
        if words[0] in ("check", "splits")
        else []
    )
    _, out, err = tlx(*words, *few, "--dataset", root)
    assert "\x1b" not in out + err
    assert "\x07" not in out + err


def test_an_escape_in_an_option_reaches_no_terminal(tlx):
    for words in (
        [f"--{ESCAPE}"],
        [ESCAPE],
        ["fine-tuning", "--architecture", ESCAPE],
        ["dumps", "rm", ESCAPE],
        ["datasets", ESCAPE],
        ["backbones", ESCAPE],
        ["plot", ESCAPE],
        ["regression", ESCAPE],
    ):
        code, out, err = tlx(*words)
        assert code in (2, 3), words
        assert "\x1b" not in out + err, words


def test_say_prints_each_argument_as_one_line(capsys):
    output.say("a\nb", "c\x1b")
    assert capsys.readouterr().out == "a\\nb\nc\\x1b\n"
