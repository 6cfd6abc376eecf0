"""Connects to a Dask cluster, or starts one on this machine."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from sweepstack.child_process import NEW_GROUP
from sweepstack.config.run_sections import EngineConfig
from sweepstack.error_log import ErrorsLog
from sweepstack.errors import ConfigError, UserError, one_line
from sweepstack.files.owner_only import make_file, make_folder
from sweepstack.files.scratch import scratch
from sweepstack.masking import reveal
from sweepstack.paths import began_in, typed_path

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

CONNECT_SECONDS = 8.0
"""Seconds in which a scheduler must answer."""
LOGGERS = ("distributed", "distributed.client", "distributed.comm", "bokeh", "tornado", "tornado.application")


class UnreachableError(UserError):
    """Nobody answers at the address of a scheduler."""


def check_installed() -> None:
    """Keeps the messages of `distributed` out of the terminal; errors go to the log of errors.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import distributed
    except ModuleNotFoundError as error:
        rule = f"engine=dask needs the package distributed ({one_line(error)})"
        raise ConfigError(rule, remedy='install it: pip install "sweepstack[dask]"') from error
    log = ErrorsLog()
    for logger in map(logging.getLogger, LOGGERS):
        logger.handlers, logger.propagate = [log], False
        logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=distributed.__name__)  # the versions that count are checked by us


def address_of(config: EngineConfig) -> str:
    """Returns the address of the scheduler that a config names, with its protocol.

    Raises:
        ConfigError: it is none, or does not fit the keys for TLS.
    """
    address, scheme = reveal(config.address or ""), "tls" if config.tls_ca else "tcp"
    if "://" not in address:
        address = f"{scheme}://{address}"
    if not re.fullmatch(r"(tcp|tls)://(\[[^\]]+\]|[^:/\[\]]+):[0-9]{1,5}/?", address):
        rule = "engine.address must be that of a Dask scheduler, with its port"
        raise ConfigError(rule, config.address, f"for example engine.address={scheme}://scheduler:8786")
    if address.startswith("tls") != bool(config.tls_ca):
        rule = "engine.address must begin with tls:// if and only if engine.tls_ca, tls_cert and tls_key are given"
        raise ConfigError(rule, config.address, "give all of them, or use tcp://")
    return address.rstrip("/")


def security_of(config: EngineConfig) -> Security | None:
    """Returns the certificates that a config names; None without TLS.

    Raises:
        ConfigError: some of the files are not named, or cannot be used.
    """
    named = {key: getattr(config, key) for key in ("tls_ca", "tls_cert", "tls_key")}
    if not any(named.values()):
        return None
    if missing := [f"engine.{key}" for key, value in named.items() if not value]:
        rule = f"TLS needs engine.tls_ca, engine.tls_cert and engine.tls_key, {' and '.join(missing)} is missing"
        raise ConfigError(rule, remedy="give the files that the cluster was started with")
    files = {key: typed_path(str(value)) for key, value in named.items()}
    for key, file in files.items():
        if not file.is_file():
            raise ConfigError(f"engine.{key} must be a file", named[key], "give the path of a PEM file")
    from distributed.security import Security

    security = Security(
        tls_ca_file=str(files["tls_ca"]),
        tls_client_cert=str(files["tls_cert"]),
        tls_client_key=str(files["tls_key"]),
        require_encryption=True,
    )
    try:
        security.get_connection_args("client")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        rule = (
            f"engine.tls_ca, tls_cert and tls_key must be a certificate authority, a certificate and its key: {error}"
        )
        raise ConfigError(one_line(rule), remedy="give the PEM files that the cluster was started with") from error
    return security


async def connect(address: str, security: Security | None, seconds: float = CONNECT_SECONDS) -> Client:
    """Returns a client of the scheduler at an address.

    Args:
        address: the address.
        security: its certificates; None without TLS.
        seconds: the longest time to wait.

    Raises:
        UnreachableError: nobody answers.
    """
    from distributed import Client

    client = Client(
        address, security=security, asynchronous=True, set_as_default=False, timeout=seconds, name="sweepstack"
    )
    try:
        return await client
    except Exception as error:
        await client.close()
        what = "or it refuses the certificates" if security else "or it wants TLS"
        raise UnreachableError(
            f"engine.address must be that of a Dask scheduler that answers, nobody does in {seconds:g} s, {what}",
            address,
            "start it (dask scheduler), or leave engine.address out to use this machine",
        ) from error


class Loopback:
    """A cluster of this machine that ends with this process. Its connections are encrypted with a key of their own,
    because other users of the machine could use it else.

    Args:
        workers: the number of its workers; each trains one stack.
        log: the file for what its processes print.
    """

    def __init__(self, workers: int, log: Path) -> None:
        from distributed.security import Security

        if not hasattr(os, "fork"):  # its training processes fork workers
            rule = "engine=dask starts workers on Linux and macOS only"
            raise UserError(rule, sys.platform, "choose engine=local, or let engine.address name a cluster on Linux")
        self.security = Security.temporary()
        keys = ("tls_ca_file", "tls_client_cert", "tls_client_key", "tls_scheduler_cert", "tls_scheduler_key")
        values = {key: getattr(self.security, key) for key in (*keys, "tls_worker_cert", "tls_worker_key")}
        self._resources = contextlib.ExitStack()
        folder = str(self._resources.enter_context(scratch()))
        make_folder(log.parent)
        log.unlink(missing_ok=True)
        make_file(log)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with log.open("ab") as printed:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sweepstack.execution.engines.dask.loopback", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                cwd=began_in(),
                env=environment,
                start_new_session=True,
                creationflags=NEW_GROUP,  # Ctrl-C reaches the command alone, which then asks its workers to stop
                encoding="utf-8",
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"workers": workers, "scratch": folder, "security": values}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            self.close()
            raise UserError("a Dask cluster must start on this machine, it did not", remedy=f"see {log}")
        started = json.loads(answer)
        self.address: str = started["address"]
        self.dashboard: str = started["dashboard"]

    def close(self) -> None:
        """Ends it; its workers end with it, and the training processes with them."""
        self._process.kill()
        self._process.communicate()
        self._resources.close()
