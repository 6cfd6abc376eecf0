"""A server that does not answer, or not yet: nobody waits for it, and nothing is lost."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from sweepstack.cli.main import main
from sweepstack.errors import StoreError
from sweepstack.journal.ledger import Ledger
from sweepstack.tracking.known_fingerprints import lookup
from sweepstack.tracking.store import Store

from ..stories import (
    Command,
    MakeTrial,
    ask,
    deliver_all,
    fingerprint,
    points,
    points_of,
    print_line,
    recording,
    run_names,
    started,
    wait_until,
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(database: Path, port: int) -> Iterator[None]:
    words = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--artifacts-destination", str(database.parent / "carried"), "--allowed-hosts", "127.0.0.1:*"),
    ]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = (database.parent / "server.log").open("wb")
    with (
        log,
        subprocess.Popen(words, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True) as it,
    ):
        try:
            yield
        finally:
            os.killpg(it.pid, signal.SIGKILL)


@contextlib.contextmanager
def losing_way(port: int, behind: int, asked: str, about: bytes) -> Iterator[list[str]]:
    """A way to the server behind on which one answer gets lost, when the server has done what it was asked."""
    lost: list[str] = []

    class Way(BaseHTTPRequestHandler):
        def forward(self) -> None:
            self.close_connection = True
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            connection = HTTPConnection("127.0.0.1", behind, timeout=60)
            with contextlib.closing(connection), contextlib.suppress(OSError):  # it may not be there yet
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                if self.path.endswith(asked) and about in body and not lost:
                    lost.append(self.path)
                    return
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = forward  # noqa: N815

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Way) as way:
        threading.Thread(target=way.serve_forever, daemon=True).start()
        try:
            yield lost
        finally:
            way.shutdown()


def test_every_command_that_a_server_is_away_for_tells_how_much_is_kept(ledger: Ledger, trial: MakeTrial) -> None:
    told: list[str | None] = []
    with started(Store(f"http://127.0.0.1:{free_port()}")) as process:
        for number in (1, 2):
            with recording(process, ledger, print_line, told) as command:
                command.train(trial(number))
    assert [complaint.split(" kept")[0] for complaint in told if complaint] in (
        ["Records of 1 trial are", "Records of 2 trials are"],
        ["Records of 1 trial are", "Records of 1 trial are"],
    )


def test_a_server_that_is_away_costs_one_line_and_gets_everything_when_it_is_back(
    store: Store, ledger: Ledger, trial: MakeTrial, tmp_path: Path
) -> None:
    """`store` is what the server will keep its records in. It makes a run, and its answer gets lost."""
    assert store.database is not None
    port, behind = free_port(), free_port()
    away = Store(f"http://127.0.0.1:{port}")
    said: list[str] = []
    told: list[str | None] = []
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights")
    line = away.check()
    assert line is not None
    assert line.startswith(f"The tracking server {away.uri} does not answer (")
    with started(away) as process:
        begun = time.monotonic()
        with recording(process, ledger, said.append, told) as command:
            command.train(trial(1), files=(weights,))
            with pytest.raises(StoreError):
                lookup(away, [fingerprint(1)], process.look)
            command.train(trial(2))
            wait_until(lambda: said != [])
        assert time.monotonic() - begun < 30
        command = Command(ledger)
        process.open(ledger.folder, command.number, said.append)
        command.claim(trial(3))
        command.plan("stack", trial(3))
        command.start(trial(3))
        command.measure(trial(3), 1)
        way = losing_way(port, behind, "/runs/create", b"lr=3")
        with server(store.database, behind), way as lost:
            wait_until(lambda: run_names(store) == ["lr=1", "lr=2", "lr=3"])
            command.measure(trial(3), 2)
            command.finish(trial(3))
            command.end()
            assert process.finish() is None
            found, link = process.find("latest")()
            told_by_mlflow = process.look([fingerprint(number) for number in (1, 2, 3, 4)])
    assert len(lost) == 1
    assert run_names(store) == ["lr=1", "lr=2", "lr=3"]
    (complaint,) = told
    assert complaint is not None
    assert complaint.startswith(f"Records of 2 trials are kept in the journal, because {away.uri} does not take them (")
    assert link.startswith(f"{away.uri}/#/experiments/")
    assert {row.name: row.state for row in found} == dict.fromkeys(("lr=1", "lr=2", "lr=3"), "FINISHED")
    assert set(told_by_mlflow.finished) == {fingerprint(number) for number in (1, 2, 3)}
    assert points(store) == points_of("lr=1", "lr=2", "lr=3")
    assert len(said) == 1
    assert said[0].endswith("Training goes on; the journal keeps all records until they can be delivered.")
    assert sorted(file.name for file in (tmp_path / "carried").rglob("*") if file.is_file()) == sorted(
        ["config.yaml", "overrides.yaml"] * 3 + ["weights.pt"]
    )
    assert ledger.end_dead_sessions() == []


def test_a_sweep_on_a_server_is_deleted_there_and_not_while_the_server_is_away(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    assert store.database is not None
    port = free_port()
    keys = [trial(number).fingerprint for number in (1, 2, 3)]
    words = ("--yes", "--store", f"http://127.0.0.1:{port}", "--journal", str(ledger.folder))
    with server(store.database, port):
        there = Store(f"http://127.0.0.1:{port}")
        wait_until(lambda: there.check() is None)
        command = Command(ledger)
        command.train(trial(1), trial(2), trial(3, "other"))
        command.end()
        deliver_all(there, ledger)
        assert ledger.recorded_outcomes(keys).keys() == {*keys}
        done = CliRunner().invoke(main, ["delete", "sweep", *words])
        assert done.exit_code == 0, done.stderr
        assert done.stdout.startswith("Sweep sweep is deleted:\n  2 runs (2 FINISHED)\n")
        assert [run.info.run_name for run in there.runs("")] == ["lr=3"]
        assert ledger.recorded_outcomes(keys).keys() == {keys[2]}  # what is used while the server is away
    done = CliRunner().invoke(main, ["delete", "other", *words])
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert ledger.recorded_outcomes(keys).keys() == {keys[2]}
    states = ask(store, "SELECT name, lifecycle_stage FROM runs ORDER BY name")
    assert states == [("lr=1", "deleted"), ("lr=2", "deleted"), ("lr=3", "active")]
