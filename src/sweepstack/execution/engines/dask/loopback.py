"""A Dask cluster of this machine: `python -m sweepstack.execution.engines.dask.loopback PID`.

It reads its settings as a line of JSON, answers with its address, and ends with the command, whose process is PID.
"""

from __future__ import annotations

import json
import os
import sys

from sweepstack.child_process import end_with_parent


def main() -> None:
    """Starts the cluster and waits until its standard input is closed."""
    import dask
    from distributed import LocalCluster
    from distributed.security import Security

    wanted = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what workers print goes where errors go
    dask.config.set({"distributed.scheduler.reuse-broadcast-comm": True, "temporary-directory": wanted["scratch"]})
    cluster = LocalCluster(
        n_workers=wanted["workers"],
        threads_per_worker=1,
        host="127.0.0.1",
        protocol="tls",
        security=Security(**wanted["security"], require_encryption=True),
        dashboard_address="127.0.0.1:8787",
        memory_limit=0,  # it would not count the training processes
    )
    answers.write(json.dumps({"address": cluster.scheduler_address, "dashboard": cluster.dashboard_link}) + "\n")
    answers.flush()
    sys.stdin.read()


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    main()
    os._exit(0)
