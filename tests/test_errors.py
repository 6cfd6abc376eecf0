"""A user's mistake: one printable line of rule, value and remedy."""

import pickle

import pytest

from sweepstack.errors import ConfigError, UserError, one_line


def test_a_mistake_is_one_line_of_rule_value_and_remedy() -> None:
    error = ConfigError("epochs should be a number from 1", 0, "for example epochs=5", where="job 3")

    assert str(error) == "job 3: epochs should be a number from 1, got 0; for example epochs=5"
    assert (error.rule, error.value, error.remedy) == ("epochs should be a number from 1", 0, "for example epochs=5")


def test_several_mistakes_are_told_in_several_lines_and_survive_pickling() -> None:
    both = ConfigError.of_all([ConfigError("a should be b", "c"), ConfigError("d is missing", remedy="give it")])
    again = pickle.loads(pickle.dumps(both.inside("job 1")))

    assert isinstance(again, ConfigError)
    assert str(again).splitlines() == ["job 1: a should be b, got 'c'", "job 1: d is missing; give it"]
    assert [error.remedy for error in again.errors] == ["", "give it"]


@pytest.mark.parametrize("text", ["\x1b[31mred", "two\nlines", "\r\x07"])
def test_what_others_have_written_moves_no_cursor(text: str) -> None:
    for line in (str(UserError(f"a file must be there, {text} is not", text)), one_line(text)):
        assert line.isprintable()
