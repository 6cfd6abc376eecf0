"""Serves MLflow's UI on the loopback address, with one worker."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.client import HTTPException

from sweepstack.errors import StoreError
from sweepstack.tracking.address import connectable
from sweepstack.tracking.private.environment import SERVER
from sweepstack.tracking.private.server import server_command
from sweepstack.tracking.store import Store
from sweepstack.tracking.ui.views import link

HOST = "127.0.0.1"
"""The loopback address, which other machines cannot reach."""
ALLOWED_HOSTS = ",".join((HOST, f"{HOST}:*", "localhost", "localhost:*"))
"""The hosts that a browser may send. It does not send port 80, and any other port may be forwarded to this server."""
START_LIMIT = 120.0
"""Seconds until the server must answer."""


def serve(
    store: Store,
    port: int,
    say: Callable[[str], None],
    waiting: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
) -> int:
    """Runs MLflow's server until an interrupt; returns its exit code, 0 after Ctrl-C or SIGTERM.

    Args:
        store: the store to show.
        port: the port of the server.
        say: receives each line for the user, among them the link to the newest sweep when the server answers.
        waiting: makes a context that shows that the server is waited for.

    Raises:
        StoreError: the store is empty, the port is taken, or the server does not start.
    """
    try:
        newest = store.rows("latest")
    except StoreError:  # there are only single runs
        newest = store.rows("all")
    if store.uri.startswith("http"):
        say(f"The store is a server with a UI of its own: {link(store, newest)}")
        return 0
    _check_free(port)
    for number in (signal.SIGINT, signal.SIGTERM):  # both end the server, too
        signal.signal(number, signal.default_int_handler)
    say(f"Starting MLflow's UI on port {port} ...")
    artifacts = store.artifacts.as_uri() if store.artifacts is not None else None
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(connectable(store.uri))
        command, environment = server_command(HOST, port, ALLOWED_HOSTS, address, artifacts)
        server = subprocess.Popen(
            command,
            env={**os.environ, **SERVER, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        stack.enter_context(server)
        try:
            with waiting():
                browse = link(store, newest, f"http://{HOST}:{port}")  # imports MLflow, while the server does so, too
                _wait(server, port)
            say(f"Browse:  {browse}")
            say("Ctrl-C ends it.")
            assert server.stderr is not None
            for _ in server.stderr:  # read, so that the server does not block, but not shown
                pass
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(10)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StoreError(
                f"port {port} must be free, it cannot be used ({error.strerror})",
                remedy="choose another with --port",
            ) from error


def _wait(server: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if server.poll() is not None:
            assert server.stderr is not None
            last = (server.stderr.read().strip().splitlines() or ["no output"])[-1]
            raise StoreError(
                f"MLflow's server did not start ({last})",
                remedy=f"try: sweepstack ui --port {port + 1}",
            )
        with (
            contextlib.suppress(OSError, HTTPException),
            urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2),
        ):
            return
        time.sleep(0.2)
    raise StoreError(
        f"MLflow's server did not answer within {START_LIMIT:.0f} s",
        remedy="try again",
    )
