"""Start Python programs from a process that has everything imported: `Popen` and `run` as in
subprocess.

Importing torch and MLflow takes a command 3 to 5 seconds of CPU time, and its server of workers as
much again; the crash tests start hundreds. One process per test process (the warm one) imports
them and forks a program for each start. A program is started cold, by the ordinary Popen, where
its environment holds another value of a variable that the interpreter or a library reads when it
is loaded, and where its words are not `python -m module …`, `python -c code …` or `python
file.py …`.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import importlib
import json
import multiprocessing.util
import os
import pickle
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tracking_tables

READ_WHEN_LOADED = ("PYTHON", "LC_", "LANG", "OMP_", "MKL_", "OPENBLAS_", "NUMBA_", "MALLOC_")
OWN = ("PYTHONPATH", "PYTHONSAFEPATH")  # the forked program goes by them
ONE_THREAD = {(f"{name}_NUM_THREADS", "1") for name in ("MKL", "OPENBLAS", "NUMBA")}  # as it has
LIBRARIES = (
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking.client",
    "torchvision.transforms.v2",
    "sklearn.linear_model",
    "sklearn.neighbors",
    "sklearn.svm",
    "sklearn.ensemble",
    "optuna",
    "h5py",
    "matplotlib.backends.backend_agg",
    "multiprocessing.forkserver",
)


@dataclass
class Request:
    """A program to start."""

    words: list[str]  # after the interpreter
    cwd: str
    environment: dict[str, str]
    new_session: bool
    numbers: list[int]  # descriptors: which numbers the passed ones get


def run(words, *, input=None, capture_output=False, timeout=None, check=False, **options):
    """Run a program to its end, as subprocess.run does."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with Popen(words, **options) as process:
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


class Popen(subprocess.Popen):
    """A program, forked by the warm process where that can be."""

    _ends: socket.socket | None = None  # the warm process says here how the program ended

    @property
    def is_warm(self) -> bool:
        """Tell whether the warm process forked this program."""
        return self._ends is not None

    def _execute_child(self, args, *rest):
        names = [
            "executable",
            "preexec_fn",
            "close_fds",
            "pass_fds",
            "cwd",
            "env",
            "startupinfo",
            "creationflags",
            "shell",
            "p2cread",
            "p2cwrite",
            "c2pread",
            "c2pwrite",
            "errread",
            "errwrite",
            "restore_signals",
            "gid",
            "gids",
            "uid",
            "umask",
            "start_new_session",
            "process_group",
        ]
        how: dict[str, Any] = dict(zip(names, rest, strict=True))
        ordinary = {
            "executable": None,
            "preexec_fn": None,
            "pass_fds": (),
            "shell": False,
            "gid": None,
            "gids": None,
            "uid": None,
            "umask": -1,
            "process_group": -1,
        }
        environment = dict(os.environ if how["env"] is None else how["env"])
        if any(how[name] != value for name, value in ordinary.items()) or not _is_warm(
            args, environment
        ):
            super()._execute_child(args, *rest)
            return
        ours, theirs = socket.socketpair()
        streams = [
            given if given != -1 else number
            for number, given in enumerate((how["p2cread"], how["c2pwrite"], how["errwrite"]))
        ]
        cwd = os.fspath(how["cwd"] or os.getcwd())
        words = [os.fspath(word) for word in args[1:]]
        request = Request(words, cwd, environment, how["start_new_session"], [0, 1, 2])
        with theirs:
            send(_server(), request, [theirs.fileno(), *streams])
        self._ends = ours
        self.pid = int(ours.recv(64))
        self._child_created = True
        self._close_pipe_fds(*rest[9:15])

    def _internal_poll(self, *arguments, **options):
        if self._ends is None:
            return super()._internal_poll(*arguments, **options)
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)
        return self.returncode

    def _try_wait(self, wait_flags):
        if self._ends is None:
            return super()._try_wait(wait_flags)
        if wait_flags & os.WNOHANG and not select.select([self._ends], [], [], 0)[0]:
            return 0, 0
        status = self._ends.recv(64)
        assert status, "the warm process is gone"
        self._ends.close()
        return self.pid, int(status)


def _is_warm(args, environment: dict[str, str]) -> bool:
    """Tell whether the warm process can stand for a new interpreter."""
    if isinstance(args, (str, bytes)) or len(args) < 2 or os.fspath(args[0]) != sys.executable:
        return False
    first = os.fspath(args[1])
    if not (first in ("-m", "-c") or first.endswith(".py")):
        return False

    def read_when_loaded(variables) -> dict[str, str]:
        return {
            name: value
            for name, value in variables.items()
            if name.startswith(READ_WHEN_LOADED) and name not in OWN
            if (name, value) not in ONE_THREAD
        }

    return read_when_loaded(environment) == read_when_loaded(os.environ)


_servers: dict[int, tuple[socket.socket, subprocess.Popen]] = {}  # a fork starts its own


def _server() -> socket.socket:
    """Return the connection to the warm process of this process; start it first."""
    if os.getpid() not in _servers:
        ours, theirs = socket.socketpair()
        with theirs:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, _roots()))}
            process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        _servers[os.getpid()] = ours, process
        atexit.register(process.wait)
        atexit.register(ours.close)  # first: the warm process then ends
    return _servers[os.getpid()][0]


def _roots() -> list[Path]:
    return [Path(__file__).parent, Path(__file__).parents[1]]


# ---------------------------------------------------------------- a command for a shell

SCRIPT = """#!{python} -IS
# tlx, started by the warm process of the tests
import array, json, os, socket, sys

connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
streams = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
connection.sendmsg([len(asked).to_bytes(8, "big")], [streams])
connection.sendall(asked)
code = int(connection.recv(64) or 70)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@contextlib.contextmanager
def shell_command(folder: Path):
    """Write a program `tlx`, for a PATH, whose words the warm process runs."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        program = folder / "tlx"
        program.write_text(SCRIPT.format(python=sys.executable, address=str(folder / "socket")))
        program.chmod(0o755)
        threading.Thread(target=_answer, args=(listener,), daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


def _answer(listener: socket.socket) -> None:
    """Run a program for each connection, one after another, until the listener is shut down."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            head, rights, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * 4))
            streams = array.array("i")
            streams.frombytes(rights[0][2])
            with connection.makefile("rb") as stream:
                words, cwd, environment = json.loads(stream.read(int.from_bytes(head, "big")))
            names = dict(zip(("stdin", "stdout", "stderr"), streams, strict=True))
            process = Popen(
                [sys.executable, "-m", "tlx", *words], cwd=cwd, env=environment, **names
            )
            for number in streams:
                os.close(number)
            with contextlib.suppress(OSError):
                connection.sendall(b"%d" % process.wait())


# ---------------------------------------------------------------- messages with descriptors


def send(connection: socket.socket, content: object, descriptors: list[int]) -> None:
    """Send an object and open descriptors."""
    data = pickle.dumps(content)
    head = len(data).to_bytes(8, "big")
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    connection.sendmsg([head], [rights])
    connection.sendall(data)


def receive(connection: socket.socket) -> tuple[Any, list[int]] | None:
    """Receive what `send` sent; None at the end of the connection."""
    held = array.array("i")
    head, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(32 * held.itemsize))
    if not head:
        return None
    for _, _, data in ancillary:
        held.frombytes(data)
    left, parts = int.from_bytes(head, "big"), []
    while left:
        parts.append(connection.recv(min(left, 1 << 16)))
        left -= len(parts[-1])
    return pickle.loads(b"".join(parts)), list(held)


# ---------------------------------------------------------------- the warm process


def import_everything() -> None:
    """Import the libraries and every module of tlx."""
    import torch

    import tlx

    torch.set_num_threads(1)
    for name in LIBRARIES:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(tlx.__path__, "tlx."):
        # a process that has loaded Ray does not end by SIGINT but with status 1
        if not module.name.endswith(("__main__", "engines.ray")):
            with contextlib.suppress(ImportError):  # of an extra
                importlib.import_module(module.name)
    if tracking_tables.TEMPLATE in os.environ:
        tracking_tables.copy_them()


def serve(connection: socket.socket) -> Request | None:
    """Fork a program for each request; return its request in the program, None at the end."""
    running: dict[int, socket.socket] = {}
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready = select.select([connection, woken], [], [])[0]
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                woken.recv(4096)
            _tell_ends(running)
        if connection not in ready:
            continue
        message = receive(connection)
        if message is None:
            return None
        request, (told, *descriptors) = message
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in (connection, woken, wake, *running.values()):
                other.close()
            os.close(told)
            _take_up(request, descriptors)
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        running[pid] = socket.socket(fileno=told)
        running[pid].sendall(b"%d" % pid)


def _tell_ends(running: dict[int, socket.socket]) -> None:
    """Reap the programs that ended, and say how."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        told = running.pop(pid)
        with told, contextlib.suppress(OSError):
            told.sendall(b"%d" % status)


def _take_up(request: Request, descriptors: list[int]) -> None:
    """Make this fork what a new interpreter would be: session, streams, folder, environment."""
    if request.new_session:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _keep_a_fork()
    _place(descriptors, request.numbers)
    os.chdir(request.cwd)
    for name in [name for name in os.environ if name not in request.environment]:
        del os.environ[name]
    os.environ.update(request.environment)
    streams = functools.partial(open, encoding="utf-8", closefd=False)
    sys.stdin = streams(0)
    sys.stdout = streams(1, "w", errors=sys.stdout.errors)
    sys.stderr = streams(2, "w", errors="backslashreplace", buffering=1)


def _place(descriptors: list[int], numbers: list[int]) -> None:
    """Give the passed descriptors their numbers, and close them under the old ones."""
    high = [os.dup2(d, 1000 + i, inheritable=False) for i, d in enumerate(descriptors)]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, number in zip(high, numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _keep_a_fork() -> None:
    """Keep a fork for this program's server of workers (multiprocessing's forkserver).

    It is forked now, while there is one thread, and ends with the program if it is not needed.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        os.close(nothing)
        message = receive(theirs)
        theirs.close()
        if message is None:
            os._exit(0)
        (code, environment, numbers, mask), descriptors = message
        _place(descriptors, numbers)
        for name in [name for name in os.environ if name not in environment]:
            del os.environ[name]
        os.environ.update(environment)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            exec(code, {"__name__": "__main__"})  # noqa: S102 — multiprocessing's own words
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            traceback.print_exc()
            status = 1
        os._exit(status)
    theirs.close()
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    start_cold = multiprocessing.util.spawnv_passfds
    unused = [ours]

    def spawnv_passfds(path, words, passfds):
        """Start the server of workers, as multiprocessing.util does."""
        same = all(os.environ.get(name) in (value, "1") for name, value in threads.items())
        if not (unused and same and "multiprocessing.forkserver" in words[-1]):
            return start_cold(path, words, passfds)
        numbers = [*(n for n in (0, 1, 2) if _is_open(n)), *map(int, passfds)]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        with unused.pop() as connection:
            send(connection, (words[-1], dict(os.environ), numbers, mask), numbers)
        return pid

    multiprocessing.util.spawnv_passfds = spawnv_passfds


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _paths(request: Request) -> list[str]:
    """Return where a new interpreter would look for modules, before its own places."""
    own = {str(root) for root in _roots()}
    given = request.environment.get("PYTHONPATH", "")
    kept = [path for path in sys.path if path not in own]
    first = request.words[0]
    start = [] if request.environment.get("PYTHONSAFEPATH") else [request.cwd]
    if start and first == "-c":
        start = [""]
    elif start and first != "-m":
        start = [str(Path(request.cwd, first).parent)]
    return [*start, *filter(None, given.split(os.pathsep)), *kept]


def main() -> None:
    """Serve until the tests end; in a fork, become the program."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    import_everything()
    request = serve(connection)
    if request is None:
        return
    sys.path[:] = _paths(request)
    sys.orig_argv[1:] = request.words
    if request.words[0] == "-m":
        sys.argv[:] = request.words[1:]
        runpy.run_module(request.words[1], run_name="__main__", alter_sys=True)
    elif request.words[0] == "-c":
        sys.argv[:] = ["-c", *request.words[2:]]
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(request.words[1], "<string>", "exec"), module.__dict__)  # noqa: S102
    else:
        sys.argv[:] = request.words
        runpy.run_path(request.words[0], run_name="__main__")


if __name__ == "__main__":
    main()
