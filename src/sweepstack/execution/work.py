"""What there is to do for some trials: the decision of `classify`, by what the ledger and the store know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sweepstack.errors import StoreError
from sweepstack.journal.ledger import Ledger
from sweepstack.planning.classify import Decision, Resume, Reuse, Train, WaitFor, classify
from sweepstack.planning.known_trials import CLAIMED, Composition, Entry, KnownTrials
from sweepstack.planning.plan import Stack, Trajectory
from sweepstack.tracking.lookup import StoreLookup, lookup
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.client import writer_process
from sweepstack.trial import Finished, Outcome, StackSettings, Trial


@dataclass
class Work:
    """What there is to do for some trials."""

    decisions: list[Decision]
    fresh: list[Trial]
    resumed: list[Stack]
    settled: list[tuple[Trial, Outcome, Path | None]]
    """With the folder that holds their files, if that is on this machine."""
    held: list[Trial]
    """Another session is training these."""
    changed: dict[str, str]
    """Of those that are to be trained: what has changed since the same config was."""


def work_for(
    trials: Sequence[Trial], known_trials: KnownTrials, ledger: Ledger, store: Store, session: int | None, rerun: bool
) -> Work:
    """What there is to do for trials when the store, too, has been asked.

    Args:
        known_trials: what the ledger has told of them.
        session: the one that has claimed them; None for a dry run.
        rerun: train what is settled, too.
    """
    claimed = classify(trials, known_trials, {}, session, rerun)
    asked = [one.trial.fingerprint for one in claimed if isinstance(one, Reuse if rerun else Reuse | Train)]
    found = lookup_settled(ledger, store, asked)
    work = Work(classify(trials, known_trials, found.finished, session, rerun), [], [], [], [], {})
    resumed: dict[str, Resume] = {}
    for one in work.decisions:
        match one:
            case Train(entry):
                work.fresh.append(entry.trial)
                if entry.trial.fingerprint in found.changed:
                    work.changed[entry.trial.fingerprint] = found.changed[entry.trial.fingerprint]
            case Reuse(trial, outcome, finished):
                files = ledger.files(trial.id) if finished is None else finished.artifacts
                work.settled.append((trial, outcome, files))
            case WaitFor(trial):
                work.held.append(trial)
            case Resume():
                resumed[one.stack.id] = one
    wanted = {trial.fingerprint for trial in trials}
    for one in resumed.values():
        mine = (entry.trial for entry in taken(one, session).values())
        device = next((trial.run.device for trial in mine if trial.fingerprint in wanted), None)
        work.resumed.append(_stack_of(one.stack, one.members, device))
    return work


def taken(resume: Resume, session: int | None) -> dict[str, Entry]:
    """The trials of a resumed stack that a session trains on, by id."""
    members = resume.members.items()
    return {key: entry for key, entry in members if entry.state == CLAIMED and entry.session == session}


def lookup_settled(ledger: Ledger, store: Store, fingerprints: Sequence[str]) -> StoreLookup:
    """What the store knows; of a server that does not answer, what was delivered to it from here.

    Raises:
        StoreError: its database cannot be read.
    """
    try:
        return lookup(store, fingerprints, lambda asked: writer_process(store.uri).look(asked))
    except StoreError as error:
        if store.database is not None:
            raise StoreError(
                f"the tracking store must be readable, {store.uri} is not ({error})",
                remedy="try again",
            ) from error
        done = ledger.recorded_outcomes(fingerprints)
        return StoreLookup({key: Finished(run_id, outcome, None) for key, (run_id, outcome) in done.items()}, {})


def _stack_of(composition: Composition, entries: Mapping[str, Entry], device: str | None) -> Stack:
    """A stack as it was planned, its trials as they are known now, all for one device."""

    def trial(one: str) -> Trial:
        known = entries[one].trial
        if device is None or known.run.device == device:
            return known
        return replace(known, run=known.run.model_copy(update={"device": device}))

    return Stack(
        tuple(Trajectory(tuple(trial(one) for one in ids)) for ids in composition.trajectories),
        StackSettings(**composition.choice),
        id=composition.id,
        keep=composition.keep,
        note=composition.note,
        device=composition.device,
    )
