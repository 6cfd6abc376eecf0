"""Finds what there is to do for some trials: asks the ledger and the store, and lets `classify` decide."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sweepstack.errors import StoreError
from sweepstack.journal.ledger import Ledger
from sweepstack.journal.stack_states import CHECKPOINTS
from sweepstack.planning.classify import Decision, Resume, Reuse, Train, WaitFor, classify, is_pruned
from sweepstack.planning.known_trials import CLAIMED, Composition, Entry, KnownTrials
from sweepstack.planning.plan import Stack, Trajectory
from sweepstack.tracking.known_fingerprints import StoreLookup, lookup
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.client import writer_process
from sweepstack.trial import PRUNED_STATE, Finished, Outcome, StackSettings, Trial


@dataclass(frozen=True)
class Continued:
    """A stack of trials that were pruned together."""

    stack: Stack
    state: Path
    """The folder with the state that they were pruned in."""


@dataclass
class Work:
    """What there is to do for some trials."""

    decisions: list[Decision]
    """The decision for each trial, in their order."""
    fresh: list[Trial]
    """Trials that are trained from their beginning."""
    resumed: list[Stack]
    """Stacks that are resumed."""
    settled: list[tuple[Trial, Outcome, Path | None]]
    """Trials whose outcome is known, each with the folder of its files if that is on this machine."""
    held: list[Trial]
    """Trials that another session trains."""
    continued: list[Continued]
    """Stacks of trials that were pruned, and that this command trains on from there."""
    changed: dict[str, str]
    """What has changed since the same config was trained, by the fingerprint of a trial that is trained again."""


def work_for(
    trials: Sequence[Trial], known_trials: KnownTrials, ledger: Ledger, store: Store, session: int | None, rerun: bool
) -> Work:
    """Finds what there is to do for trials, and asks the store about those that the ledger does not settle.

    Args:
        trials: no two have the same fingerprint.
        known_trials: what the ledger knows of them.
        session: the session that has claimed them; None for a dry run.
        rerun: train settled trials, too.
    """
    claimed = classify(trials, known_trials, {}, session, rerun)
    asked = [one.trial.fingerprint for one in claimed if isinstance(one, Reuse if rerun else Reuse | Train)]
    found = lookup_settled(ledger, store, asked)
    work = Work(classify(trials, known_trials, found.finished, session, rerun), [], [], [], [], [], {})
    resumed: dict[str, Resume] = {}
    pruned: dict[tuple[str, Path], list[Trial]] = {}
    for one in work.decisions:
        match one:
            case Train(entry):
                if (
                    where := _pruned_state(known_trials.entries.get(entry.trial.fingerprint), entry, ledger)
                ) is not None:
                    pruned.setdefault(where, []).append(entry.trial)
                    continue
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
    for (stack, state), members in pruned.items():
        composition = known_trials.compositions[stack]
        work.continued.append(Continued(_stack_of_pruned(composition, {one.id: one for one in members}), state))
    wanted = {trial.fingerprint for trial in trials}
    order = {stack: number for number, stack in enumerate(known_trials.members)}
    for one in sorted(resumed.values(), key=lambda one: order[one.stack.id]):
        claimed_trials = (entry.trial for entry in claimed_members(one, session).values())
        device = next((trial.run.device for trial in claimed_trials if trial.fingerprint in wanted), None)
        work.resumed.append(_stack_of(one.stack, one.members, device))
    return work


def claimed_members(resume: Resume, session: int | None) -> dict[str, Entry]:
    """Returns the rows of the trials of a resumed stack that a session has claimed, by id."""
    members = resume.members.items()
    return {key: entry for key, entry in members if entry.state == CLAIMED and entry.session == session}


def lookup_settled(ledger: Ledger, store: Store, fingerprints: Sequence[str]) -> StoreLookup:
    """Looks settled trials up in the store; if a server does not answer, in the ledger's list of what it has received.

    Args:
        ledger: the ledger of the store.
        store: the store.
        fingerprints: of the trials.

    Raises:
        StoreError: the store's database cannot be read.
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


def _pruned_state(before: Entry | None, entry: Entry, ledger: Ledger) -> tuple[str, Path] | None:
    """Returns the stack that a trial was pruned out of, and the folder with its state; None if there is none.

    Args:
        before: what was known of the trial.
        entry: its row from now on.
        ledger: the ledger.
    """
    if before is None or before.stack is None or before.trial.id != entry.trial.id or not is_pruned(before):
        return None
    folder = ledger.checkpoints(before.stack) / PRUNED_STATE.format(step=before.measured)
    return (before.stack, folder) if (folder / CHECKPOINTS[0]).is_file() else None


def _stack_of_pruned(composition: Composition, trials: Mapping[str, Trial]) -> Stack:
    """Builds a stack of trials that were pruned.

    Args:
        composition: the stack that they were pruned out of.
        trials: the trials, by id.
    """
    left = [tuple(trials[one] for one in ids if one in trials) for ids in composition.trajectories]
    trajectories = tuple(Trajectory(members) for members in left if members)
    choice = replace(StackSettings(**composition.choice), width=len(trajectories))
    keep = any(trial.run.checkpoint.keep for trial in trials.values())
    note = "resumed where it was pruned"
    return Stack(trajectories, choice, secrets.token_hex(8), keep, note, composition.device)


def _stack_of(composition: Composition, entries: Mapping[str, Entry], device: str | None) -> Stack:
    """Builds a stack from its stored composition.

    Args:
        entries: the rows of its trials, by id.
        device: the config's `device` for all of its trials; None leaves each as it is.
    """

    def trial(trial_id: str) -> Trial:
        known = entries[trial_id].trial
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
