"""The command that serves MLflow's UI: its application itself, without the program `mlflow server` around it.

That program imports MLflow, prepares environment variables, and starts a second Python that imports MLflow again, which
takes twice as long. What it checks before, the caller has checked: the store has been read, job execution is off.
"""

from __future__ import annotations

import sys

from sweepstack.private_api_switch import tricks

APPLICATION = "mlflow.server.fastapi_app:app"
"""MLflow's application for uvicorn."""


def server_command(
    host: str, port: int, hosts: str, store: str, artifacts: str | None
) -> tuple[list[str], dict[str, str]]:
    """Returns the command of MLflow's server with one worker, and its environment variables.

    The public way is `mlflow server`. The address of the store may have a password, so it is no part of the command,
    which every user of the machine can read.

    Args:
        host: the address to listen on.
        port: the port to listen on.
        hosts: the hosts that a browser may send, with commas between them.
        store: the address of the store.
        artifacts: the address of the folder of artifacts; None for MLflow's default.
    """
    listen = ["--host", host, "--port", str(port), "--workers", "1"]
    if tricks():
        environment = {
            "_MLFLOW_SERVER_FILE_STORE": store,
            "_MLFLOW_SERVER_REGISTRY_STORE": store,
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SGI_NAME": "uvicorn",
            "MLFLOW_SERVER_ALLOWED_HOSTS": hosts,
        }
        if artifacts is not None:
            environment["_MLFLOW_SERVER_ARTIFACT_ROOT"] = artifacts
        return [sys.executable, "-m", "uvicorn", *listen, APPLICATION], environment
    command = [sys.executable, "-m", "mlflow", "server", *listen, "--allowed-hosts", hosts]
    if artifacts is not None:
        command += ["--default-artifact-root", artifacts]
    return command, {"MLFLOW_BACKEND_STORE_URI": store}
