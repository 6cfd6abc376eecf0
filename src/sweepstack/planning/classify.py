"""What happens to each trial that is wanted: the one decision, which a claim carries out and a dry run prints. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sweepstack.planning.known_trials import CLAIMED, INTERRUPTED, SETTLED, Composition, Entry, KnownTrials
from sweepstack.trial import Finished, Outcome, Trial


@dataclass(frozen=True)
class Train:
    """It is trained from its beginning."""

    entry: Entry
    """As the ledger knows it from now on. One that has begun before keeps its id, but has lost its stack."""

    @property
    def trial(self) -> Trial:
        return self.entry.trial


@dataclass(frozen=True)
class Resume:
    """It is trained on, with its whole stack."""

    trial: Trial
    stack: Composition
    members: Mapping[str, Entry]
    """All trials of the stack by id, as the ledger knows them from now on."""


@dataclass(frozen=True)
class Reuse:
    """Its outcome is known."""

    trial: Trial
    """As it is wanted, but with the id that the ledger knows it by."""
    outcome: Outcome
    finished: Finished | None
    """Its record in the store, if that has one."""
    in_ledger: bool
    """Whether the outcome is the ledger's; else it is the store's."""


@dataclass(frozen=True)
class WaitFor:
    """Another session is training it."""

    trial: Trial
    session: int | None


Decision = Train | Resume | Reuse | WaitFor


def classify(
    trials: Sequence[Trial],
    known: KnownTrials,
    finished: Mapping[str, Finished],
    session: int | None = None,
    rerun: bool = False,
) -> list[Decision]:
    """Decides what happens to each trial.

    Args:
        trials: those that are wanted, of different fingerprints.
        finished: settled trials in the store by fingerprint. A claim decides without them first, and asks the store
            for what it has claimed then: so nobody trains what another session delivers meanwhile.
        session: the one that wants the trials; None for a dry run.
        rerun: train what is settled, too.
    """
    wanted = {trial.fingerprint: trial for trial in trials}
    resumed = {stack: _resumed(stack, known, wanted, session) for stack in known.members}

    def decide(trial: Trial) -> Decision:
        entry, recorded = known.entries.get(trial.fingerprint), finished.get(trial.fingerprint)
        if entry is None or (rerun and entry.state == SETTLED):
            entry = Entry(trial, session, None, CLAIMED)  # under an id of its own
        elif entry.state == CLAIMED and entry.session != session and entry.outcome is None:
            return WaitFor(trial, entry.session)
        elif entry.outcome is not None and entry.state != INTERRUPTED:  # among them is what has just failed elsewhere
            return Reuse(_renewed(trial, entry), entry.outcome, recorded, in_ledger=True)
        elif entry.stack is not None and (members := resumed.get(entry.stack)) is not None:
            return Resume(members[entry.trial.id].trial, known.compositions[entry.stack], members)
        else:  # it was claimed and never planned, or its stack is not whole any more
            entry = replace(entry, trial=_renewed(trial, entry), session=session, stack=None, state=CLAIMED)
        if recorded is not None and not rerun:
            return Reuse(entry.trial, recorded.outcome, recorded, in_ledger=False)
        return Train(entry)

    return [decide(trial) for trial in trials]


def _resumed(
    stack: str, known: KnownTrials, wanted: Mapping[str, Trial], session: int | None
) -> dict[str, Entry] | None:
    """The trials of a stack by id, as they are once it is resumed. None where it cannot be: a member is missing, it has
    not begun and is more than what is wanted, or this version must not train a member as it is kept."""
    composition, members = known.compositions.get(stack), known.members[stack]
    if composition is None or not {one for ids in composition.trajectories for one in ids} <= {
        entry.trial.id for entry in members
    }:
        return None
    unwanted = [entry for entry in members if entry.trial.fingerprint not in wanted]
    if (unwanted and not any(entry.begun for entry in members)) or any(entry.outdated for entry in unwanted):
        return None
    resumed = {}
    for entry in members:
        trial = wanted.get(entry.trial.fingerprint)
        if trial is not None and (entry.outdated or entry.state == INTERRUPTED):
            entry = replace(entry, trial=_renewed(trial, entry), outdated="")
        if entry.state == INTERRUPTED:
            entry = Entry(entry.trial, session, stack, CLAIMED, entry.run_id, entry.at, entry.measured)
        resumed[entry.trial.id] = entry
    return resumed


def _renewed(trial: Trial, entry: Entry) -> Trial:
    """The trial as the sweep of now knows it, with the record that it has already."""
    return replace(trial, id=entry.trial.id)
