"""What happens to each trial, by what is known of it. `tests/execution/test_remaining_work.py` has whole stories."""

from dataclasses import replace
from typing import Any

import pytest

from sweepstack.planning.classify import Decision, Resume, Reuse, Train, WaitFor, classify
from sweepstack.planning.known_trials import CLAIMED, INTERRUPTED, SETTLED, Composition, Entry, KnownTrials
from sweepstack.trial import Finished, Outcome, TrialState

from ..stories import CHOICE, DIVERGED, DONE, ERROR, MakeTrial, fingerprint

ME, OTHER = 7, 3
STORED = Finished("run", DONE, None)


def decided(trial: MakeTrial, state: str, session: int, outcome: Outcome | None, **asked: Any) -> Decision:
    """What happens to a trial that the ledger knows in that state, in no stack."""
    entry = Entry(trial(1), session, None, state, outcome=outcome)
    known = KnownTrials({fingerprint(1): entry}, {}, {})
    (decision,) = classify([trial(1, "new")], known, **{"finished": {}, "session": ME, **asked})
    return decision


@pytest.mark.parametrize(
    ("state", "session", "outcome", "what", "in_a_rerun"),
    [
        (SETTLED, OTHER, DONE, Reuse, Train),
        (SETTLED, OTHER, DIVERGED, Reuse, Train),
        (CLAIMED, OTHER, None, WaitFor, WaitFor),
        (CLAIMED, OTHER, ERROR, Reuse, Reuse),
        (CLAIMED, ME, None, Train, Train),
        (INTERRUPTED, OTHER, None, Train, Train),
        (INTERRUPTED, OTHER, ERROR, Train, Train),
    ],
)
def test_a_trial_in_no_stack(
    trial: MakeTrial, state: str, session: int, outcome: Outcome | None, what: type, in_a_rerun: type
) -> None:
    decision = decided(trial, state, session, outcome)
    assert type(decision) is what
    assert decision.trial == (trial(1, "new") if what is WaitFor else trial(1, "new", id="sweep-1"))
    again = decided(trial, state, session, outcome, rerun=True)
    assert type(again) is in_a_rerun
    assert again.trial == (trial(1, "new") if state == SETTLED else decision.trial)  # a record of its own


def test_the_store_is_believed_of_what_would_be_trained_and_not_in_a_rerun(trial: MakeTrial) -> None:
    stored = {fingerprint(1): STORED}
    new, old = trial(1, "new"), trial(1, "new", id="sweep-1")
    nothing = KnownTrials({}, {}, {})
    assert classify([new], nothing, stored) == [Reuse(new, DONE, STORED, in_ledger=False)]
    assert classify([new], nothing, stored, rerun=True) == [Train(Entry(new, None, None, CLAIMED))]
    assert decided(trial, INTERRUPTED, OTHER, ERROR, finished=stored) == Reuse(old, DONE, STORED, in_ledger=False)
    assert decided(trial, SETTLED, OTHER, DIVERGED, finished=stored) == Reuse(old, DIVERGED, STORED, in_ledger=True)
    assert decided(trial, CLAIMED, OTHER, None, finished=stored) == WaitFor(new, OTHER)


@pytest.mark.parametrize(
    ("change", "wanted", "resumed"),
    [
        ({}, (1, 2), True),
        ({}, (1,), False),  # it has not begun: nobody needs the other one
        ({"at": 1.0}, (1,), True),
        ({"at": 1.0, "outdated": "batch_size"}, (1,), False),
        ({"at": 1.0, "outdated": "batch_size"}, (1, 2), True),
        ({"stack": "other"}, (1, 2), False),
    ],
)
def test_a_stack_that_was_left_open(trial: MakeTrial, change: dict[str, Any], wanted: tuple[int, ...], resumed: bool):
    """The change is one of its second member."""
    entries = [Entry(trial(number), OTHER, "stack", INTERRUPTED) for number in (1, 2)]
    entries[1] = replace(entries[1], **change)
    stack = Composition("stack", (("sweep-1",), ("sweep-2",)), CHOICE, "cpu")
    members = [entry for entry in entries if entry.stack == "stack"]
    by_fingerprint = {entry.trial.fingerprint: entry for entry in entries if entry.trial.number in wanted}
    known = KnownTrials(by_fingerprint, {"stack": members}, {"stack": stack})
    decisions = classify([trial(number, "new") for number in wanted], known, {}, ME)
    assert [type(one) for one in decisions] == [Resume if resumed else Train] * len(wanted)
    for one in decisions:
        if isinstance(one, Resume):
            assert [(entry.session, entry.state, entry.outdated) for entry in one.members.values()] == [
                (ME, CLAIMED, "")
            ] * 2
    lost = classify(
        [trial(number, "new") for number in wanted], KnownTrials(by_fingerprint, {"stack": members}, {}), {}
    )
    assert {type(one) for one in lost} == {Train}


def test_a_pruned_trial_that_the_pruner_does_not_leave_so_is_trained_on(trial: MakeTrial) -> None:
    outcome = Outcome(TrialState.PRUNED, {"val/accuracy": 0.5}, "pruned at epoch 1 by halving: 2nd of 2")
    entry = Entry(trial(1), None, None, INTERRUPTED, at=1.0, outcome=outcome)
    wanted, of_wanted = trial(1, "new"), {fingerprint(1): replace(outcome, reason="pruned at epoch 1: 3rd of 3")}
    known = KnownTrials({fingerprint(1): entry}, {}, {})
    others = KnownTrials({fingerprint(1): replace(entry, state=CLAIMED, session=OTHER)}, {}, {})
    left = Reuse(replace(wanted, id="sweep-1"), of_wanted[fingerprint(1)], None, in_ledger=True)
    for one in (replace(known, left_pruned=of_wanted), replace(others, left_pruned=of_wanted)):
        assert classify([wanted], one, {}, ME) == [left]
        finished = classify([wanted], one, {fingerprint(1): STORED}, ME)  # by a rerun
        assert finished == [Reuse(replace(wanted, id="sweep-1"), DONE, STORED, in_ledger=False)]
    (again,) = classify([wanted], replace(known, left_pruned=of_wanted), {}, ME, rerun=True)
    assert again == Train(Entry(wanted, ME, None, CLAIMED))
    (decision,) = classify([wanted], known, {}, ME)
    assert isinstance(decision, Train)
    assert decision.trial.id == "sweep-1"
    assert classify([wanted], others, {}, ME) == [WaitFor(wanted, OTHER)]  # until that command has ended


def test_a_stack_is_resumed_without_its_pruned_members(trial: MakeTrial) -> None:
    """They stay as they are, or have left it for good."""
    one, two, three = (Entry(trial(number), OTHER, "stack", INTERRUPTED, at=1.0) for number in (1, 2, 3))
    pruned = Outcome(TrialState.PRUNED)
    three = replace(three, outcome=pruned)
    stack = Composition("stack", (("sweep-1",), ("sweep-2",), ("sweep-3",)), CHOICE, "cpu")
    entries = {entry.trial.fingerprint: entry for entry in (one, two, three)}
    known = KnownTrials(entries, {"stack": [*entries.values()]}, {"stack": stack})
    left = replace(known, left_pruned={three.trial.fingerprint: pruned})
    same = classify([trial(number) for number in (1, 2, 3)], left, {}, ME)
    assert [type(one) for one in same] == [Resume, Resume, Reuse]
    assert isinstance(same[0], Resume)
    assert same[0].stack == stack
    assert {id: entry.state for id, entry in same[0].members.items()} == {
        "sweep-1": CLAIMED,
        "sweep-2": CLAIMED,
        "sweep-3": INTERRUPTED,
    }
    plain = classify([trial(number) for number in (1, 2, 3)], known, {}, ME)
    assert [type(one) for one in plain] == [Resume, Resume, Train]
    assert isinstance(plain[0], Resume)
    assert plain[0].stack.trajectories == (("sweep-1",), ("sweep-2",))
    (alone,) = classify([trial(1)], known, {}, ME)
    assert isinstance(alone, Resume)
    assert alone.members["sweep-3"] == three
