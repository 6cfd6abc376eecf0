"""Workers side by side: what they save, what they cost, and what the controller of a thousand of them can take.

cnns         16 small convolutional networks on the digits: engine=local / engine=inline, whole processes in pairs
overhead     200 stacks that compute for a second each, recorded in MLflow: seconds of the whole process beyond
             (the sum of all training / the number of workers), as a share of it
first        seconds from the start of a command to its first recorded step: engine=local / engine=inline
controller   1,000 workers and 100,000 trials with the real plan, ledger, channel, journal and reader. Their training
             is made up, by processes beside: events a second, seconds, memory

python benchmarks/engines.py cnns|overhead|first|controller [--pairs 3] [--trials 100000] [--workers 1000]
                             [--stacks 200] [--engine local] [--seconds 1.0]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CNNS = ("dataset=digits", "model=cnn", "epochs=10", f"optimizer.lr={','.join(f'{0.01 * n:g}' for n in range(1, 17))}")
FIRST = ("dataset=digits", "epochs=3", "batch_size=50,100", "evaluate_every=1", "optimizer.lr=0.1,0.2")
SPIN = """
import time
import torch

def train(config, context, seconds):
    images = torch.rand(64, 64)
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        images = torch.tanh(images @ images)
    context.report({"val/accuracy": 0.5}, step=1)
    return {}
"""
"""A loop of a user's own that computes for some seconds of processor time."""


@contextmanager
def folder() -> Iterator[tuple[Path, dict[str, str]]]:
    """A new folder with a store of its own, and the environment for commands in it."""
    with tempfile.TemporaryDirectory(prefix="engines-") as name:
        yield Path(name), {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{name}/mlflow.db"}


def train(words: Sequence[str], files: dict[str, str] | None = None, used: dict[str, float] | None = None) -> float:
    """Types a sweep; returns its seconds.

    Args:
        words: the overrides.
        files: files that it finds in its folder.
        used: receives the processor seconds of its processes, see `processor_seconds`.
    """
    with folder() as (where, environment):
        for name, text in (files or {}).items():
            (where / name).write_text(text)
        began = time.perf_counter()
        command = [sys.executable, str(ROOT / "train.py"), "-m", *words]
        with open(where / "output", "w+") as output:
            process = subprocess.Popen(command, cwd=where, env=environment, stdout=output, stderr=subprocess.STDOUT)
            while process.poll() is None:
                if used is not None:
                    used |= {
                        key: max(seconds, used.get(key, 0.0)) for key, seconds in processor_seconds(process.pid).items()
                    }
                with suppress(subprocess.TimeoutExpired):
                    process.wait(1.0)
            if process.returncode:
                output.seek(0)
                sys.exit(output.read())
        return time.perf_counter() - began


def pairs(count: int, one: Callable[[], float], other: Callable[[], float], names: tuple[str, str]) -> None:
    """Prints the ratio of two measurements that are taken in turn; one of each is not counted, it fills caches."""
    one(), other()
    ratios = []
    for number in range(count):
        first, second = (one(), other()) if number % 2 else (other(), one())[::-1]
        ratios.append(first / second)
        print(f"pair {number + 1}: {names[0]} {first:.2f} s, {names[1]} {second:.2f} s", file=sys.stderr)
    print(f"{names[0]} / {names[1]}: median {statistics.median(ratios):.3f} of {count} ({min(ratios):.3f} to ", end="")
    print(f"{max(ratios):.3f})")


def cnns(arguments: argparse.Namespace) -> None:
    def run(engine: str) -> Callable[[], float]:
        return lambda: train([*CNNS, f"engine={engine}"])

    pairs(arguments.pairs, run(arguments.engine), run("inline"), (arguments.engine, "inline"))


def processor_seconds(command: int) -> dict[str, float]:
    """What a command and its descendants have used of the processors until now, by what they do.

    The workers of engine=local are children of the server that forks them. What trains for engine=dask is among the
    others.
    """
    tick = os.sysconf("SC_CLK_TCK")
    found = {"command": 0.0, "server": 0.0, "workers": 0.0, "writer": 0.0, "others": 0.0}
    parents, used, ended, lines = {}, {}, {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            lines[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it has just ended
            continue
        own, children = sum(map(int, fields[11:13])) / tick, sum(map(int, fields[13:15])) / tick
        parents[int(folder.name)], used[int(folder.name)], ended[int(folder.name)] = int(fields[1]), own, children
    family = {command} & parents.keys()
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    for pid in family:
        forked = lines[pid] == lines[command]
        if pid == command:
            found["command"] += used[pid]
        elif forked and parents[pid] == command:
            found["server"] += used[pid]
            found["workers"] += ended[pid]
        elif forked:
            found["workers"] += used[pid]
        elif "tracking.writer" in lines[pid]:
            found["writer"] += used[pid]
        else:
            found["others"] += used[pid] + ended[pid]
    return found


def overhead(arguments: argparse.Namespace) -> None:
    workers = arguments.workers if arguments.workers < 1000 else len(os.sched_getaffinity(0))
    seeds = f"seed={','.join(map(str, range(arguments.stacks)))}"
    loop = ["dataset=digits", "epochs=1", "+trainer._target_=spin.train", f"+trainer.seconds={arguments.seconds}"]
    words = [*loop, seeds, f"engine={arguments.engine}", f"engine.workers={workers}"]
    shares = []
    for number in range(arguments.pairs):
        used: dict[str, float] = {}
        seconds, least = train(words, {"spin.py": SPIN}, used), arguments.stacks * arguments.seconds / workers
        shares.append(seconds / least - 1)
        parts = ", ".join(f"{name} {part:.1f}" for name, part in used.items() if part)
        print(f"run {number + 1}: {seconds:.1f} s, at least {least:.1f} s; processor seconds: {parts}", file=sys.stderr)
    print(f"{arguments.stacks} stacks by {workers} workers, engine={arguments.engine}: ", end="")
    print(f"{100 * statistics.median(shares):.1f} % beyond the training / workers (median of {arguments.pairs})")


def first(arguments: argparse.Namespace) -> None:
    def run(engine: str) -> float:
        with folder() as (where, environment):
            command = [sys.executable, str(ROOT / "train.py"), "-m", *FIRST, f"engine={engine}"]
            began = time.perf_counter()
            process = subprocess.Popen(command, cwd=where, env=environment, stdout=subprocess.DEVNULL)
            journal = where / "journal" / "mlflow.db" / "000001.jsonl"
            while process.poll() is None:
                if journal.exists() and b'"Measured"' in journal.read_bytes():
                    seconds = time.perf_counter() - began
                    process.wait()
                    return seconds
                time.sleep(0.002)
        sys.exit("no step was recorded")

    pairs(arguments.pairs, lambda: run(arguments.engine), lambda: run("inline"), (arguments.engine, "inline"))


def make_up(folders: Any, epochs: int) -> None:
    """In a process of its own: does assignments without training."""
    import json

    from sweepstack.events import Ended, Measured, Started
    from sweepstack.execution.engines.assignment_file import assignment_from_json
    from sweepstack.execution.engines.channel import ASSIGNMENT, FILES, checkpoints_of
    from sweepstack.execution.engines.worker_side import FileSink, WorkerReporter
    from sweepstack.trial import DatasetFacts, Measurement, Outcome, TrialState

    facts = DatasetFacts("0" * 16, 100, 10, 10)
    while (where := folders.get()) is not None:
        content = json.loads((where / ASSIGNMENT).read_text())
        assignment = assignment_from_json(content, checkpoints_of(where))
        reporter = WorkerReporter(FileSink(where), where / FILES)
        reporter.send({"hello": {"host": "made up", "pid": 0, "at": time.time()}})
        for trial in assignment.stack.trials:
            reporter.emit(Started(trial, time.time(), facts))
        for epoch in range(1, epochs + 1):
            for trial in assignment.stack.trials:
                measurement = Measurement(epoch, epoch, epochs, {"train/loss": 1.0, "val/accuracy": 0.5})
                reporter.emit(Measured(trial, measurement, time.time()))
        final = {"val/accuracy": 0.5, "val/accuracy_best": 0.5, "test/accuracy": 0.5, "train_seconds": 1.0}
        for trial in assignment.stack.trials:
            reporter.emit(Ended(trial, Outcome(TrialState.FINISHED, final), time.time()))
        reporter.send({"done": None})


def controller(arguments: argparse.Namespace) -> None:
    from sweepstack.config.fingerprint import fingerprint
    from sweepstack.execution.assignment import Assignment, Reporter
    from sweepstack.execution.engines.channel import Reports, WorkerHandle, work_folder, write_assignment
    from sweepstack.execution.engines.conformance import make_trials
    from sweepstack.execution.engines.dispatch import Dispatcher
    from sweepstack.execution.executor import Handle
    from sweepstack.execution.prepare import Prepared
    from sweepstack.execution.session import Session
    from sweepstack.journal.ledger import Ledger
    from sweepstack.planning.plan import plan
    from sweepstack.tracking.store import Store
    from sweepstack.trial import StackSettings

    epochs, count, workers = 3, arguments.trials, arguments.workers
    folders: Any = multiprocessing.get_context("spawn").SimpleQueue()

    class MadeUp:
        """Gives assignments to the processes that make training up."""

        def __init__(self, journal: Path) -> None:
            self.workers, self._journal = workers, journal

        def submit(self, assignment: Assignment, reporter: Reporter) -> Handle:
            where = work_folder(self._journal, assignment.stack.id)
            write_assignment(assignment, where, 600.0)
            folders.put(where)
            return WorkerHandle(Reports(where, assignment.stack, reporter), 600.0, lambda: None, lambda: None)

        def close(self) -> None:
            """Does nothing."""

    began, used = time.perf_counter(), time.process_time()

    def tell(what: str, number: int) -> None:
        nonlocal began, used
        seconds, own = time.perf_counter() - began, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {what} | {seconds:.1f} | {own:.1f} | {number / own:,.0f} | {peak:,.0f} |", flush=True)
        began, used = time.perf_counter(), time.process_time()

    print("| | wall seconds | processor seconds of the controller | trials or events a processor second | peak MB |")
    print("|---|---:|---:|---:|---:|")
    with folder() as (where, _):
        (pattern,) = make_trials(where, [0.1])
        trials = []
        for number in range(count):
            optimizer = pattern.config.optimizer.model_copy(update={"lr": (number + 1) / 1e6})
            config = pattern.config.model_copy(update={"optimizer": optimizer, "epochs": epochs})
            known = str(fingerprint(config, "0" * 16, "0" * 8))
            name = f"lr={optimizer.lr:g}"
            trials.append(replace(pattern, config=config, number=number, name=name, fingerprint=known, id=""))
        began, used = time.perf_counter(), time.process_time()
        store = Store(f"sqlite:///{where}/mlflow.db")
        store.check()
        ledger = Ledger(where / "journal")
        number, lock = ledger.open("train")
        session = Session(ledger, number, store, [])
        work = session.claim(trials, False)
        tell("claim of the trials", count)
        width = max(1, count // workers)
        planned = plan(work.fresh, lambda group: StackSettings(width, 1, 1.0, "made up"))
        stacks = session.keep_plan(planned.stacks)
        tell(f"plan of {len(stacks):,} stacks", count)
        beside = [multiprocessing.get_context("spawn").Process(target=make_up, args=(folders, epochs)) for _ in (0, 1)]
        for process in beside:
            process.start()
        Dispatcher(session, Prepared(tuple(trials), "train", {"cpu": "cpu"}), MadeUp(ledger.folder)).train(stacks)
        tell("assignments given, events read and journaled", count * (epochs + 2))
        for _ in beside:
            folders.put(None)
        for process in beside:
            process.join()
        journal, database = ledger.journal(number).stat().st_size, ledger.file.stat().st_size
        began, used = time.perf_counter(), time.process_time()
        session.journal.close()
        ledger.end(number, session.replay, session.journal.lines)
        lock.release()
        tell("end of the session", count)
        print(f"\njournal {journal / 1e6:,.0f} MB, ledger {database / 1e6:,.0f} MB, {len(session.outcomes):,} outcomes")


def main() -> None:
    parser = argparse.ArgumentParser(description="Workers side by side.")
    parser.add_argument("what", choices=["cnns", "overhead", "first", "controller"])
    parser.add_argument("--pairs", type=int, default=3, help="pairs or runs (default 3)")
    parser.add_argument("--engine", default="local", help="the engine that is measured (default local)")
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--stacks", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a stack (default 1.0)")
    arguments = parser.parse_args()
    {"cnns": cnns, "overhead": overhead, "first": first, "controller": controller}[arguments.what](arguments)


if __name__ == "__main__":
    main()
