"""Names of sweeps and experiments: what is accepted goes round, what cannot is refused before anything is made."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sweepstack.config.names import MAX_NAME_BYTES, as_folder, as_key, as_value, check_experiment, check_sweep
from sweepstack.config.parsing import parse
from sweepstack.errors import ConfigError
from sweepstack.execution.session import open_session
from sweepstack.journal.ledger import Ledger
from sweepstack.tracking.store import Store

from ..stories import Command, MakeTrial, deliver_all
from ..terminal import Terminal

BAD = [
    "",
    " ",
    ".",
    "..",
    " a",
    "a ",
    "a\n",
    "a\tb",
    "\0",
    "\x1b[2J",
    "\ud800",
    "a\u2028b",
    "\u00a0",
    "ä" * 101,
    "x" * 201,
]
BAD_SWEEPS = [*BAD, "latest", "all", "a/b", "../a", "/a", "a\\b", "it's", 'a"b', "a`b", "100%"]
BAD_EXPERIMENTS = [*BAD, "../a", "a/../b", "/a/.", "it's", 'a"b', "a`b", "a\\b"]


@pytest.mark.parametrize("name", BAD_SWEEPS)
def test_a_name_that_a_folder_a_tag_or_a_filter_cannot_carry_is_refused(digits_plain, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^tracking\.sweep should .*for example tracking\.sweep=my_sweep$"):
        parse(OmegaConf.create(digits_plain({"tracking.sweep": name})))


@pytest.mark.parametrize("name", BAD_EXPERIMENTS)
def test_so_is_one_of_an_experiment_wherever_it_comes_from(
    digits_plain, store: Store, trial: MakeTrial, name: str
) -> None:
    with pytest.raises(ConfigError, match=r"^tracking\.experiment should .*for example tracking\.experiment=train$"):
        parse(OmegaConf.create(digits_plain({"tracking.experiment": name})))
    if name:
        with (
            pytest.raises(ConfigError, match=r"experiment should .*; choose another with tracking\.experiment=NAME"),
            open_session(trial(1).run, store, name, []),
        ):
            pytest.fail("nothing may train")


@pytest.mark.parametrize("mode", [(), ("-m",)])
def test_a_bad_name_makes_no_file(bare_terminal: Terminal, mode: tuple[str, ...]) -> None:
    done = bare_terminal.type("train.py", *mode, "dataset=digits", "tracking.sweep=..")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: tracking.sweep should be a name, not a folder's . or .., got '..'; "
        "for example tracking.sweep=my_sweep\n"
    )
    assert os.listdir(bare_terminal.folder) == []


@given(st.lists(st.text(st.characters(), max_size=MAX_NAME_BYTES + 10), unique=True, max_size=8))
def test_any_text_has_a_folder_and_a_key_of_its_own(names: list[str]) -> None:
    for carried in (as_folder, as_key):
        found = [carried(name) for name in names]
        assert len({*found}) == len(names)
        for part in found:
            assert part not in ("", ".", "..")
            assert "/" not in part
            assert len(part) <= MAX_NAME_BYTES + 7
    assert all(as_value(name).encode() for name in names if name)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=MAX_NAME_BYTES))
def test_an_accepted_name_is_one_folder_below_another_and_one_value_after_a_number(name: str) -> None:
    for check in (check_sweep, check_experiment):
        try:
            check(name)
        except ValueError:
            continue
        assert len(os.fsencode(as_folder(name))) <= 255
        if check is check_sweep:
            assert Path("/multirun", name).parent == Path(os.path.normpath(f"/multirun/{name}")).parent
            assert Path("/multirun", name).name == name
            assert f"1 {name}".partition(" ")[2] == as_value(name) == name.strip() == name


GOOD = [
    "-x",
    "--help",
    "~",
    "$HOME",
    "a=b {x}: (y)",
    "größe 1,5",
    "...",
    "#1?",
    "a:b*",
    "x" * MAX_NAME_BYTES,
    "名" * 66,
    "[red]",
]
OF_EARLIER = ["..", ".", "", "a\nb", " ", "\ud800", "x" * 245, "it's"]


def test_good_names_and_those_of_an_earlier_version_are_delivered_and_found(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    for number, name in enumerate([*GOOD, *OF_EARLIER]):
        command = Command(ledger, as_value(name) or "train")
        command.train(trial(number, name, id=f"trial-{number}"))
        command.end()
    deliver_all(store, ledger)
    assert not ledger.undelivered_sessions()
    for number, name in enumerate(GOOD):
        assert check_sweep(name) == check_experiment(name) == name
        assert [row.name for row in store.rows(name)] == [f"lr={number}"]
    assert len(store.rows("all")) == len(GOOD) + len(OF_EARLIER)
    assert store.database is not None
    of_runs = store.database.parent.glob("artifacts/*/*/artifacts/config.yaml")
    everywhere = store.database.parent.rglob("config.yaml")
    assert len([*of_runs]) == len([*everywhere]) == len(GOOD) + len(OF_EARLIER)


def test_the_typed_config_keeps_an_experiment_with_slashes(digits_plain) -> None:
    config = parse(OmegaConf.create(digits_plain({"tracking.experiment": "/Users/me/rates"})))
    assert config.run.tracking.experiment == "/Users/me/rates"
