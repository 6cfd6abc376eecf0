"""Decides what happens to each wanted trial; a claim carries the decision out, a dry run prints it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sweepstack.planning.known_trials import CLAIMED, INTERRUPTED, SETTLED, Composition, Entry, KnownTrials
from sweepstack.trial import Finished, Outcome, Trial, TrialState


@dataclass(frozen=True)
class Train:
    """The trial is trained from its beginning."""

    entry: Entry
    """The trial's row in the ledger from now on. A trial that has begun before keeps its id, but loses its stack."""

    @property
    def trial(self) -> Trial:
        return self.entry.trial


@dataclass(frozen=True)
class Resume:
    """The trial is resumed, together with its whole stack."""

    trial: Trial
    stack: Composition
    members: Mapping[str, Entry]
    """The rows of all trials of the stack from now on, by the trial's id."""


@dataclass(frozen=True)
class Reuse:
    """The outcome of the trial is known, so it is not trained."""

    trial: Trial
    """The wanted trial, with the id that it has in the ledger."""
    outcome: Outcome
    finished: Finished | None
    """The trial's record in the store, if there is one."""
    in_ledger: bool
    """True if the outcome comes from the ledger, False if it comes from the store."""


@dataclass(frozen=True)
class WaitFor:
    """Another session trains the trial."""

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
        trials: the wanted trials. No two have the same fingerprint.
        known: what the ledger knows of them.
        finished: settled trials in the store, by fingerprint. A claim first decides without them, then asks the store
            about the trials that it has claimed. So nobody trains a trial that another session delivers in between.
        session: the session that wants the trials; None for a dry run.
        rerun: train settled trials, too.
    """
    wanted = {trial.fingerprint: trial for trial in trials}
    resumed = {stack: _resumed(stack, known, wanted, session) for stack in known.members}

    def decide(trial: Trial) -> Decision:
        entry, recorded = known.entries.get(trial.fingerprint), finished.get(trial.fingerprint)
        goes_on = entry is not None and is_to_go_on(entry, known)
        if entry is None or (rerun and (entry.state == SETTLED or is_pruned(entry))):
            entry = Entry(trial, session, None, CLAIMED)  # with an id of its own
        elif entry.state == CLAIMED and entry.session != session and (entry.outcome is None or goes_on):
            return WaitFor(trial, entry.session)
        elif entry.outcome is not None and not goes_on and (entry.state != INTERRUPTED or is_pruned(entry)):
            if is_pruned(entry) and recorded is not None:  # somebody has trained it to its end
                return Reuse(_renewed(trial, entry), recorded.outcome, recorded, in_ledger=False)
            # also a trial that has just failed in another session
            outcome = known.left_pruned.get(trial.fingerprint, entry.outcome)
            return Reuse(_renewed(trial, entry), outcome, recorded, in_ledger=True)
        elif (found := resumed.get(entry.stack or "")) is not None and entry.trial.id in found[1]:
            stack, members = found
            return Resume(members[entry.trial.id].trial, stack, members)
        else:  # the trial was claimed and never planned, or its stack has lost members
            entry = replace(entry, trial=_renewed(trial, entry), session=session, stack=None, state=CLAIMED)
        if recorded is not None and not rerun:
            return Reuse(entry.trial, recorded.outcome, recorded, in_ledger=False)
        return Train(entry)

    return [decide(trial) for trial in trials]


def is_pruned(entry: Entry) -> bool:
    """True if a trial was pruned, and nobody has trained it on."""
    return entry.outcome is not None and entry.outcome.state is TrialState.PRUNED


def is_to_go_on(entry: Entry, known: KnownTrials) -> bool:
    """True if a trial was pruned, and the command that wants it does not leave it so."""
    return is_pruned(entry) and entry.trial.fingerprint not in known.left_pruned


def _resumed(
    stack: str, known: KnownTrials, wanted: Mapping[str, Trial], session: int | None
) -> tuple[Composition, dict[str, Entry]] | None:
    """Returns a stack and the rows of its trials, by id, as they are once it is resumed; None if it cannot be resumed.

    A stack cannot be resumed if a member is missing, if it has not begun and has members that are not wanted, or if
    this version refuses the stored config of a member. Pruned members stay as they are; those that are to be trained on
    have left it, since its checkpoint does not know them any more.
    """
    composition, members = known.compositions.get(stack), known.members[stack]
    if composition is not None and sum(map(len, composition.trajectories)) > 1:
        gone = {entry.trial.id for entry in members if entry.trial.fingerprint in wanted and is_to_go_on(entry, known)}
        members = [entry for entry in members if entry.trial.id not in gone]
        left = (tuple(one for one in ids if one not in gone) for ids in composition.trajectories)
        composition = replace(composition, trajectories=tuple(ids for ids in left if ids))
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
        stays = is_pruned(entry) and (trial is None or not is_to_go_on(entry, known))
        if trial is not None and (entry.outdated or entry.state == INTERRUPTED):
            entry = replace(entry, trial=_renewed(trial, entry), outdated="")
        if entry.state == INTERRUPTED and not stays:
            entry = Entry(entry.trial, session, stack, CLAIMED, entry.run_id, entry.at, entry.measured)
        resumed[entry.trial.id] = entry
    return composition, resumed


def _renewed(trial: Trial, entry: Entry) -> Trial:
    """Returns the wanted trial with the id that it already has in the ledger."""
    return replace(trial, id=entry.trial.id)
