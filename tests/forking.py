"""Programs that begin at once: a process that has imported the libraries forks one for each command of a test.

What runs is the program itself, with arguments, folder, environment and pipes of its own. Only PyTorch, Hydra and
MLflow are imported already: that takes most of the time of a short command. Each program imports sweepstack's own code
itself, which is compiled already. A program whose environment an interpreter or a library reads at its start is not
forked.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib.util
import inspect
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

LIBRARIES = {
    "train.py": (
        "torch torch._dynamo torch.func torchvision hydra.main omegaconf pydantic.main rich.progress filelock pandas "
        "pyarrow tabulate wcwidth"
    ),
    "sweepstack": (
        "mlflow mlflow.store.tracking.sqlalchemy_store pandas pyarrow tabulate wcwidth click filelock omegaconf hydra "
        "pydantic.main rich.table"
    ),
}
"""What is imported before a program is forked. Only libraries of linear algebra start threads then."""
CHILD = "from sweepstack.tracking.writer.process import main; "
"""With this the process begins that records what a training journals."""
READ_AT_ONCE = ("PYTHON", "LC_", "LANG", "OMP_", "MKL_", "KMP_", "LD_", "MLFLOW_ENABLE", "MLFLOW_CONFIGURE")
HONORED = ("PYTHONPATH", "PYTHONUNBUFFERED")
"""By `become`."""


class Request(NamedTuple):
    """Which program is wanted."""

    words: list[str]
    """The program and its arguments; -c and code."""
    folder: str
    environment: dict[str, str]
    new_session: bool
    parent: int
    servers: str
    """The folder of the sockets: a forked program starts programs, too."""


class Forked(subprocess.Popen[Any]):
    """A process: forked where that is the same, else started as usual."""

    _ends: int | None = None
    """A pipe that tells how a forked process ended: whoever waits for it is not its parent."""

    def _execute_child(self, *places: Any, **named: Any) -> None:
        given = inspect.signature(super()._execute_child).bind(*places, **named).arguments  # type: ignore[misc]
        request = request_for(given)
        if request is None:
            return super()._execute_child(*places, **named)  # type: ignore[misc]
        self._waiting = threading.Lock()
        self._ends, told = os.pipe()
        ours = [given[key] for key in ("p2cread", "c2pwrite", "errwrite")]
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
            program = "sweepstack" if request.words[0] == "-c" else os.path.basename(request.words[0])
            channel.connect(os.path.join(servers(), program))
            fds = [fd if fd >= 0 else usual for usual, fd in enumerate(ours)]
            socket.send_fds(channel, [json.dumps(request).encode()], [*fds, told])
            channel.settimeout(120)
            pid = channel.recv(20)
        if not pid:
            raise RuntimeError("the process that forks programs for tests has died")
        self.pid = int(pid)
        self._child_created = True
        pairs = (("p2cread", "p2cwrite"), ("c2pwrite", "c2pread"), ("errwrite", "errread"))
        for fd in {told, *(given[one] for one, other in pairs if given[other] != -1)}:  # others are the caller's
            os.close(fd)
        if (devnull := getattr(self, "_devnull", None)) is not None:
            os.close(devnull)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """As of any process."""
        if self._ends is None and self.returncode is None:
            return super().wait(timeout)
        if self.returncode is None:
            if not select.select([self._ends], [], [], None if timeout is None else max(0.0, timeout))[0]:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
            with self._waiting:
                if self.returncode is None:
                    assert self._ends is not None
                    self.returncode = os.waitstatus_to_exitcode(int(os.read(self._ends, 20)))
                    os.close(self._ends)
        return self.returncode

    def _internal_poll(self, *places: Any, **named: Any) -> int | None:
        if self._ends is None:
            return super()._internal_poll(*places, **named)  # type: ignore[misc]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode


def request_for(given: dict[str, Any]) -> Request | None:
    """None for what cannot be forked."""
    if not isinstance(given["args"], list):
        return None
    environment = dict(os.environ if given["env"] is None else given["env"])
    python, *words = [os.fsdecode(os.fsencode(word)) for word in given["args"]]
    if words[:2] == ["-P", "-c"] and words[2].startswith(CHILD):
        words = words[1:]
    elif os.path.basename(python) == "sweepstack":
        words = [python, *words]
    elif not words or os.path.basename(words[0]) != "train.py":
        return None
    usual = {key: value for key, value in os.environ.items() if key.startswith(READ_AT_ONCE) and key not in HONORED}
    wanted = {key: value for key, value in environment.items() if key.startswith(READ_AT_ONCE) and key not in HONORED}
    if sys.platform != "linux" or given["preexec_fn"] is not None or given["pass_fds"] or usual != wanted:
        return None
    return Request(
        words, str(given["cwd"] or os.getcwd()), environment, given["start_new_session"], os.getpid(), servers()
    )


@functools.cache
def servers() -> str:
    """The folder of the sockets of the processes that fork: a server for each program, which ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="forking-")
    for name in LIBRARIES:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listening.bind(os.path.join(folder.name, name))
        listening.listen(100)
        fd = listening.fileno()
        server = subprocess.Popen([sys.executable, __file__, name, str(fd)], pass_fds=[fd], stdin=subprocess.PIPE)
        atexit.register(end_server, server, folder)
    return folder.name


def end_server(server: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    folder.cleanup()
    server.communicate()


def serve(listening: socket.socket) -> Request:
    """Forks for each request; returns in each new process, with what it is to run."""
    while listening in select.select([listening, 0], [], [])[0]:  # type: ignore[type-var]
        channel, _ = listening.accept()
        if os.fork():
            channel.close()
            os.wait()
            continue
        if os.fork():
            os._exit(0)
        text, fds, _, _ = socket.recv_fds(channel, 1 << 20, 4)  # a process that waits for the program, nobody's child
        pid = os.fork()
        if not pid:
            for target, fd in enumerate(fds[:3]):
                os.dup2(fd, target)
            for one in (*fds, channel.detach(), listening.detach()):
                os.close(one)
            request = Request(*json.loads(text))
            if request.new_session:
                os.setsid()
            return request
        channel.send(str(pid).encode())
        for fd in (*fds[:3], 0, 1, 2, channel.detach(), listening.detach()):
            os.close(fd)
        for number in (signal.SIGINT, signal.SIGTERM):  # may come to the whole group
            signal.signal(number, signal.SIG_IGN)
        _, status = os.waitpid(pid, 0)
        os.write(fds[3], str(status).encode())
        os._exit(0)
    os._exit(0)


def become(request: Request) -> None:
    """Runs a program as a new interpreter would."""
    words = request.words
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    subprocess.Popen = Forked  # type: ignore[misc]
    globals()["servers"] = lambda: request.servers
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # else all forked programs would draw the same, as if they were seeded
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))  # type: ignore[misc]
    for fd, name in ((1, "stdout"), (2, "stderr")):
        file = io.FileIO(fd, "wb", closefd=False)
        stream = io.TextIOWrapper(
            file if unbuffered else io.BufferedWriter(file),
            errors="backslashreplace" if fd == 2 else None,
            line_buffering=fd == 2 or os.isatty(fd),
            write_through=unbuffered,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    found = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if words[0] == "-c":
        os.getppid = lambda: request.parent if os.path.exists(f"/proc/{request.parent}") else 1
        sys.argv, sys.path[:1] = words[:1], found
        exec(words[1], sys.modules["__main__"].__dict__)
    else:
        sys.argv, sys.path[:1] = words, [os.path.dirname(os.path.abspath(words[0])), *found]
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            leave(end.code)
            raise
        leave(0)


def compile_own_code() -> None:
    """Where no bytecode is kept (PYTHONDONTWRITEBYTECODE), each program would compile some eighty modules again."""
    spec = importlib.util.find_spec("sweepstack")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    loaders = [
        SourceFileLoader("", str(path))
        for path in (*package.rglob("*.py"), *package.parent.glob("hydra_plugins/sweepstack/*.py"))
    ]
    compiled = {loader.path: loader.source_to_code(loader.get_data(loader.path), loader.path) for loader in loaders}
    as_usual = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str) -> CodeType | None:
        return compiled.get(self.path) or as_usual(self, fullname)

    SourceFileLoader.get_code = get_code  # type: ignore[assignment,method-assign]


def leave(code: Any) -> None:
    """Ends the process as the interpreter does: it waits for threads, obeys `atexit` and flushes the streams. It leaves
    out the last step, to take all modules apart, which costs more than the rest of a short command. Returns if the
    interpreter has something to say about the code or the streams."""
    if not isinstance(code, int):
        return
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)


if __name__ == "__main__":
    for library in LIBRARIES[sys.argv[1]].split():
        importlib.import_module(library)
    compile_own_code()
    gc.freeze()  # a collection in a forked program would copy all pages of the libraries
    become(serve(socket.socket(fileno=int(sys.argv[2]))))
