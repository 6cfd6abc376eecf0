"""A Slurm of one node, on loopback, from Debian's packages: `with slurm_node(folder, hidden): ...`.

It runs as root, without accounting, and keeps all of its files in one folder. By hand:

    python tests/engines/slurm_node.py FOLDER       # prints what to set, and ends with Ctrl-C
"""

import contextlib
import functools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sweepstack.child_process import end_with_parent

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
CPUS, MEGABYTES = 8, 16000
"""What the node says that it has; nobody looks whether that is true."""
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill
JobAcctGatherFrequency=task=1
ReturnToService=2
MessageTimeout=5
DefMemPerCPU=2000
KillWait=10
MinJobAge=30
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={megabytes} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP
PartitionName=other Nodes={host} MaxTime=60 State=UP
"""


def why_not() -> str:
    """Says why no node can run here; empty if one can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]
    if missing:
        return f"{missing[0]} is not installed (apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "only root can start the daemons of Slurm"
    mounts = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    return "" if mounts else "no process may have mounts of its own here"


def search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


@dataclass
class SlurmNode:
    """A node that runs.

    Attributes:
        folder: its files.
        hidden: a folder that the jobs do not see, as if it were a disk of the command's machine alone.
    """

    folder: Path
    hidden: Path
    host: str = field(default_factory=lambda: socket.gethostname().partition(".")[0])
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What a command must have in its environment to find this Slurm."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": search_path()}

    def begin(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        self.hidden.mkdir(parents=True, exist_ok=True)
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            ports = one.getsockname()[1], two.getsockname()[1]
        config = CONFIG.format(folder=self.folder, host=self.host, ports=ports, cpus=CPUS, megabytes=MEGABYTES)
        (self.folder / "slurm.conf").write_text(config)
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        self.run("mungekey", "--create", f"--keyfile={self.folder}/munge.key")
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self.start("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files)
        _wait_for(lambda: (self.folder / "munge.socket").exists())
        self.start("slurmctld", "-D")
        hide = 'mount --make-rprivate / && mount -t tmpfs nothing "$0" && exec slurmd -D -N "$1"'
        self.start("unshare", "--mount", "sh", "-c", hide, str(self.hidden), self.host)
        _wait_for(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%t", check=False))

    def start(self, name: str, *words: str) -> None:
        """Starts a daemon."""
        with (self.folder / f"{name}.out").open("ab") as out:
            environment = {**os.environ, **self.environment}
            self._daemons[name] = subprocess.Popen(
                [name, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                start_new_session=True,
                preexec_fn=functools.partial(end_with_parent, os.getpid()),
            )

    def run(self, *words: str, check: bool = True) -> str:
        """Runs a command of Slurm; returns what it prints."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def jobs(self) -> list[str]:
        """The jobs that wait or run: their states and ids."""
        return self.run("squeue", "--noheader", "--format=%T %i %j").splitlines()

    def stop_controller(self) -> None:
        """Ends slurmctld as an administrator does."""
        self._daemons["slurmctld"].terminate()
        self._daemons.pop("slurmctld").wait(30)

    def start_controller(self) -> None:
        self.start("slurmctld", "-D")

    def clear(self) -> None:
        """Ends all jobs, also those that are held."""
        self.run("scancel", "--user=root", "--signal=KILL", "--full", check=False)
        self.run("scancel", "--user=root", check=False)
        _wait_for(lambda: not self.jobs(), 30)

    def end(self) -> None:
        """Ends all jobs and daemons."""
        if "slurmctld" in self._daemons and (self.folder / "slurm.conf").exists():
            with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
                self.clear()
        for name in ("unshare", "slurmctld", "munged"):
            if (daemon := self._daemons.pop(name, None)) is not None:
                daemon.terminate()
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


def _wait_for(condition, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "Slurm does not start or end"
        time.sleep(0.05)


@contextlib.contextmanager
def slurm_node(folder: Path, hidden: Path) -> Iterator[SlurmNode]:
    """A Slurm that runs in the block.

    Args:
        folder: for its files. Its path must be short: that of a socket may have 107 characters.
        hidden: a folder that the jobs do not see.
    """
    node = SlurmNode(folder, hidden)
    try:
        node.begin()
        yield node
    finally:
        node.end()


if __name__ == "__main__":
    with slurm_node(Path(sys.argv[1]), Path(sys.argv[1], "hidden")) as running:
        print(f"export SLURM_CONF={running.environment['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(60)
