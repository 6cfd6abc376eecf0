"""Chaos of another kind: a disk changes what was written. Bits flip, ends are cut off, sectors are zeroed, files go.

A program that pytest does not collect: `python -m tests.damages [--damages 1000] [--seed S] [--first N]`. The journal,
the ledger or a checkpoint of a command is damaged, of one that has ended and of one that was killed, both delivered in
part. Then the next command trains what is left, and delivers. What comes of it is

    recovered       all is as undisturbed, and nothing had to be said
    told            a line says what is damaged, the file is kept; every trial has its outcome
    refused         a line says what to do; done, every trial has its outcome

or a violation: a trial without its outcome, a run RUNNING, a figure twice, a figure lost and no line about it. Then the
exit code is 1.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import torch

from sweepstack.config.parsing import parse
from sweepstack.errors import StoreError
from sweepstack.journal.ledger import Ledger
from sweepstack.tracking.known_fingerprints import lookup_on_server
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.delivery import Delivery, deliver_what_is_left
from sweepstack.training.checkpoint import CheckpointManager
from sweepstack.trial import Trial

from .stories import DIVERGED, DONE, ERROR, Command, fingerprint, points, rows, states
from .terminal import DIGITS

ENDS = {"lr=1": "FINISHED", "lr=2": "FAILED", "lr=3": "FAILED", "lr=4": "FINISHED"}
OUTCOMES = dict(zip(ENDS, (DONE, DIVERGED, ERROR, DONE), strict=True))
EPOCHS = (1, 2, 3)
RECOVERED, TOLD, REFUSED, VIOLATION = "recovered", "told", "refused", "VIOLATION"
TARGETS = ("journal", "ledger", "checkpoint")


def trials() -> list[Trial]:
    config, run = parse(DIGITS)
    return [
        Trial(
            config,
            number,
            name,
            {"dataset": "digits", "lr": number},
            Path("/nowhere", name),
            "epochs: 2\n",
            run,
            overrides=(f"lr={number}",),
            sweep="sweep",
            fingerprint=fingerprint(number),
            id=f"trial-{number}",
        )
        for number, name in enumerate(ENDS, 1)
    ]


def prepare(folder: Path, died: bool) -> None:
    """A command that has delivered a part, and has ended or was killed."""
    store, ledger = open_store(folder)
    command = Command(ledger)
    command.claim(*trials())
    for one in trials():
        command.plan(f"stack of {one.id}", one)
        command.start(one)
        command.measure(one, 1)
    command.finish(trials()[3])
    Delivery(store, ledger, command.number).deliver()
    for one in trials()[:3]:
        command.measure(one, 2, 3)
    for one in trials()[: 2 if died else 3]:
        command.finish(one, OUTCOMES[one.name])
    command.die() if died else command.end()


def open_store(folder: Path) -> tuple[Store, Ledger]:
    return Store(f"sqlite:///{folder}/mlflow.db"), Ledger(folder / "journal")


def damage(text: bytes, rng: random.Random) -> tuple[str, bytes | None]:
    """What has happened to a file, and its content then."""
    kind = rng.choices(
        ("bits", "cut", "zeros", "noise", "moved", "doubled", "empty", "gone"), (40, 20, 10, 10, 7, 7, 3, 3)
    )[0]
    begin = rng.randrange(len(text))
    end = min(len(text), begin + rng.choice((16, 512, 4096)))
    match kind:
        case "bits":
            changed = bytearray(text)
            for _ in range(rng.choice((1, 1, 1, 2, 8))):
                changed[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
            return kind, bytes(changed)
        case "cut":
            return kind, text[:begin]
        case "zeros":
            return kind, text[:begin] + bytes(end - begin) + text[end:]
        case "noise":
            return kind, text[:begin] + rng.randbytes(end - begin) + text[end:]
        case "moved":
            return kind, text[:begin] + text[end:]
        case "doubled":
            return kind, text[:end] + text[begin:]
        case "empty":
            return kind, b""
    return kind, None


def go_on(store: Store, ledger: Ledger) -> None:
    """The same command once more; as any command it has new ids for what it does not know."""
    command = Command(ledger)
    try:
        claim = command.claim(*(replace(one, id=uuid4().hex) for one in trials()))
    except StoreError:  # that command ends
        command.lock.release()
        raise
    left = [*claim.entries, *(entry for _, found in claim.resumed for entry in found.values())]
    settled = lookup_on_server(store, [one.fingerprint for one in trials()]).finished  # as `Session.claim` asks
    ledger.release(command.number, [one.trial for one in claim.entries if one.trial.fingerprint in settled])
    left = [one for one in left if one.stack is not None or one.trial.fingerprint not in settled]
    for entry in (entry for entry in left if entry.session == command.number):
        one = next(trial for trial in trials() if trial.fingerprint == entry.trial.fingerprint)
        one = replace(one, id=entry.trial.id)
        command.start(one, again=entry.begun)
        command.measure(one, *(epoch for epoch in EPOCHS if epoch * 10 > entry.measured))
        command.finish(one, OUTCOMES[one.name])
    for trial, _ in claim.settled:
        command.join(trial)
    command.end()
    for _ in range(2):
        _, refused = deliver_what_is_left(store, ledger)
    for error in refused:
        raise error


def judge(store: Store, ledger: Ledger, refused: bool) -> tuple[str, str]:
    """The kind of end, and what is wrong about it."""
    said: list[str] = []
    ledger.show_notes(said.append)
    found = states(store)
    names = [row.name for row in store.rows("all") if row.state != "KILLED"]
    if "RUNNING" in found.values():
        return VIOLATION, f"RUNNING: {found}"
    if {name: found.get(name) for name in ENDS} != ENDS and not refused:
        return VIOLATION, f"ended as {found}"
    if missing := ENDS.keys() - set(names):
        return VIOLATION, f"no outcome of {missing}"
    if not refused and len(names) > len(set(names)):
        return VIOLATION, f"twice: {names}"
    if rows(store)["lr=1"].metrics != DONE.metrics or rows(store)["lr=1"].params != {"dataset": "digits", "lr": "1"}:
        return VIOLATION, f"{rows(store)['lr=1']}"
    counts = points(store, "runs.status <> 'KILLED'")  # a trial that begins again under another id leaves such a run
    expected = {(name, "val/accuracy", epoch, 0.5) for name in ("lr=1", "lr=2", "lr=3") for epoch in EPOCHS}
    if not refused and max(counts.values()) > 1:
        return VIOLATION, f"twice: {[point for point, count in counts.items() if count > 1]}"
    if not said and not refused and expected - counts.keys():
        return VIOLATION, f"lost in silence: {sorted(expected - counts.keys())}"
    if ledger.end_dead_sessions():
        return VIOLATION, "something is not delivered"
    return (REFUSED if refused else TOLD if said else RECOVERED), ""


def play(prepared: Path, folder: Path, target: str, rng: random.Random) -> tuple[str, str, str]:
    """The kind of damage, the kind of end, and what is wrong about it."""
    shutil.copytree(prepared, folder)
    store, ledger = open_store(folder)
    file = ledger.file if target == "ledger" else next(ledger.folder.glob("*.jsonl"))
    kind, content = damage(file.read_bytes(), rng)
    file.unlink() if content is None else file.write_bytes(content)
    refused = content is None and target == "ledger"
    try:
        go_on(store, ledger)
    except StoreError as error:
        if "\n" in str(error) or "; " not in str(error):
            return kind, VIOLATION, f"no line with a remedy: {error}"
        refused = True
        for beside in ledger.folder.glob("ledger.db*"):  # as it says
            beside.unlink()
        go_on(store, ledger)
    return kind, *judge(store, ledger, refused)


def play_checkpoint(folder: Path, rng: random.Random) -> tuple[str, str, str]:
    folder.mkdir()
    said: list[str] = []
    keeper = CheckpointManager(folder / "kept", every=0, say=said.append)
    for step in (1, 2):
        keeper.save({"step": step, "weights": torch.arange(500.0) * step})
    name = rng.choice(("latest.pt", "previous.pt"))
    file = folder / "kept" / name
    text = file.read_bytes()
    kind, content = damage(text, rng)
    file.unlink() if content is None else file.write_bytes(content)
    state = keeper.restore()
    step = 0 if state is None else state["step"]
    if state is not None and not torch.equal(state["weights"], torch.arange(500.0) * step):
        return kind, VIOLATION, "a damaged state was taken for a good one"
    unnoticed = content is None or name == "previous.pt" or content == text
    if step != (1 if name == "latest.pt" and content != text else 2):
        return kind, VIOLATION, f"went on from step {step}"
    return (kind, RECOVERED, "") if unnoticed else (kind, TOLD, "") if said else (kind, VIOLATION, "in silence")


def main() -> None:
    parser = argparse.ArgumentParser(description="Damages journals, ledgers and checkpoints at random places.")
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--first", type=int, default=0, help="the number of the first, to play one again")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"--seed {seed}", flush=True)
    ends: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="damages-") as base:
        prepared = {died: Path(base, f"died-{died}") for died in (False, True)}
        _ = Store(f"sqlite:///{base}/mlflow.db").client
        for died, folder in prepared.items():
            folder.mkdir()
            shutil.copy(Path(base, "mlflow.db"), folder)
            prepare(folder, died)
        for number in range(arguments.first, arguments.first + arguments.damages):
            rng = random.Random(f"{seed} {number}")
            target, died = rng.choices(TARGETS, (45, 45, 10))[0], rng.random() < 0.5
            folder = Path(base, str(number))
            try:
                if target == "checkpoint":
                    kind, end, why = play_checkpoint(folder, rng)
                else:
                    kind, end, why = play(prepared[died], folder, target, rng)
            except Exception:
                kind, end, why = "?", VIOLATION, traceback.format_exc()
            ends[target, end] += 1
            if end == VIOLATION:
                print(f"number {number}: {kind} of the {target}, {'died' if died else 'ended'}: {why}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    for target in TARGETS:
        counted = ", ".join(f"{ends[target, end]} {end}" for end in (RECOVERED, TOLD, REFUSED, VIOLATION))
        print(f"{target}: {counted}")
    sys.exit(any(end == VIOLATION for _, end in ends))


if __name__ == "__main__":
    main()
