"""`docs/states.md` names every state that the code has, and `docs/glossary.md` holds its fifteen words."""

import re
from pathlib import Path
from typing import get_args

import pytest

from sweepstack.events import Event
from sweepstack.journal.schema import UPGRADES
from sweepstack.planning.known_trials import CLAIMED, INTERRUPTED, SETTLED
from sweepstack.trial import TrialState

ROOT = Path(__file__).parents[1]
STATES = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The part of states.md below a heading."""
    return STATES.split(f"\n## {title}\n")[1].split("\n## ")[0]


def named(title: str) -> set[str]:
    """The states in the table of a section."""
    rows = re.findall(r"^\| (\S+) \|", section(title), re.MULTILINE)
    return {row.strip("`") for row in rows} - {"state"}


def drawn(title: str) -> set[str]:
    """The states in the drawing of a section."""
    arrows = re.findall(r"^ +(\S+) --> ([^\s:]+)", section(title), re.MULTILINE)
    return {state for arrow in arrows for state in arrow} - {"[*]"}


def test_every_state_of_a_trial_is_named() -> None:
    assert named("A trial in the ledger") == {CLAIMED, INTERRUPTED, SETTLED}
    assert named("How a trial ends") == {str(state) for state in TrialState}


def test_every_number_that_tells_how_a_session_ended_is_named() -> None:
    (comment,) = re.findall(r"ended INTEGER .*-- (.*)", "\n".join(map(str, UPGRADES[0])))
    numbers = {0, *map(int, re.findall(r"(\d):", comment))}
    assert {int(number) for number in re.findall(r"`ended = (\d)`", section("A session"))} == numbers


@pytest.mark.parametrize("event", [event.__name__ for event in get_args(Event)])
def test_every_event_is_named(event: str) -> None:
    assert f"`{event}`" in section("How a trial ends")


@pytest.mark.parametrize("title", ["A trial in the ledger", "How a trial ends", "A stack", "A session", "A journal"])
def test_the_drawing_shows_the_states_of_the_table(title: str) -> None:
    assert named(title) == drawn(title) - {"RUNNING"}


def test_the_glossary_has_eighteen_words_and_each_place_exists() -> None:
    words = re.findall(r"^\| \*\*(\w+)\*\* \| .* \| `(.+)` \|$", GLOSSARY, re.MULTILINE)
    assert len({word for word, _ in words}) == 18
    for _, place in words:
        if "/" in place:
            assert (ROOT / "src" / "sweepstack" / place).exists(), place
