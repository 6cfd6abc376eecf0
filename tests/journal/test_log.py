"""The journal: whatever cuts it, fills the disk or turns the clock back, what has been written is read back."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstack.config.parsing import parse
from sweepstack.config.run_sections import TrackingConfig
from sweepstack.config.schema import RunConfig, TrialConfig
from sweepstack.errors import StoreError
from sweepstack.events import Ended, Event, Joined, Measured, Started
from sweepstack.journal import codec
from sweepstack.journal.codec import FORMAT, stored_trial, trial_as_json
from sweepstack.journal.log import Journal, LogReader
from sweepstack.journal.replay import Progress, Replay
from sweepstack.journal.schema import SCHEMA_VERSION
from sweepstack.trial import DatasetFacts, Measurement, Outcome, Trial, TrialState

from ..stories import DIVERGED, DONE, FACTS, MakeTrial, in_process, measured, read_only, room_for

texts = st.text(max_size=20)
counts = st.integers(0, 2**62)
figures = st.dictionaries(texts, st.floats(), max_size=4)
plain = st.none() | st.booleans() | st.integers() | st.floats() | texts
paths = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20).map(Path)
outcomes = st.builds(
    Outcome,
    st.sampled_from(TrialState),
    figures,
    texts,
    weights=st.none(),
    traceback=st.just(""),
    diverged=st.booleans(),
)
measurements = st.builds(Measurement, counts, counts, counts, figures)
facts = st.builds(DatasetFacts, texts, counts, counts, counts)
runs = st.builds(
    RunConfig,
    device=st.sampled_from(["auto", "cpu", "cuda:1"]),
    retries=counts,
    tracking=st.builds(TrackingConfig, experiment=st.none() | st.just("mine")),
)


@st.composite
def lives(draw: st.DrawFn, config: TrialConfig) -> list[Event]:
    """The events of some trials, mixed, at times that do not go back."""
    keywords = draw(
        st.dictionaries(st.text("abc", min_size=1, max_size=3), plain | st.lists(plain, max_size=3), max_size=3)
    )
    model = type(config.model).model_validate({"_target_": "my.model", **keywords})
    trials = [
        Trial(
            config.model_copy(update={"model": model, "seed": draw(counts)}),
            draw(counts),
            draw(texts),
            draw(st.dictionaries(texts, plain, max_size=4)),
            draw(paths),
            draw(texts),
            draw(runs),
            draw(paths),
            tuple(draw(st.lists(texts, max_size=3))),
            draw(st.none() | texts),
            draw(texts),
            id=f"{number}{draw(texts)}",
        )
        for number in range(draw(st.integers(1, 3)))
    ]
    times = iter(sorted(draw(st.lists(st.floats(0, 4e9), min_size=20, max_size=20))))
    events: list[Event] = [Started(one, next(times), draw(facts), draw(st.booleans())) for one in trials]
    for one in draw(st.lists(st.sampled_from(trials), max_size=10)):
        if draw(st.booleans()):
            events.append(Measured(one, draw(measurements), next(times)))
        else:
            events.append(Joined(one, next(times), draw(st.none() | texts)))
    ends = draw(st.lists(st.sampled_from(trials), unique_by=lambda one: one.id))
    files = st.lists(paths, max_size=2).map(tuple)
    return [*events, *(Ended(one, draw(outcomes), next(times), draw(files), draw(texts), draw(texts)) for one in ends)]


def write(path: Path, events: Iterable[Event]) -> None:
    journal = Journal(path)
    for event in events:
        journal.put(event)
    journal.sync()
    journal.close()


def read(path: Path) -> list[Event]:
    return [event for _, event in LogReader(path).events()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "000001.jsonl"


@pytest.fixture
def life(trial: MakeTrial) -> list[Event]:
    """Of two trials."""
    one, other = trial(1), trial(2)
    return [
        Started(one, 1.0, FACTS),
        Started(other, 2.0, FACTS, resumed=True),
        replace(measured(one, 1, 0.25), at=3.0),
        replace(measured(other, 1, 0.5), at=4.0),
        Ended(one, DONE, 5.0, (Path("weights.pt"),), "alone", "on another device"),
        Ended(other, DIVERGED, 6.0),
    ]


@given(st.data())
def test_whatever_happens_to_trials_is_read_back_as_it_was_put(
    digits_config: Callable[..., TrialConfig], data: st.DataObject
) -> None:
    events = data.draw(lives(digits_config()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal.jsonl")
        write(path, events)
        assert repr(read(path)) == repr(events)  # for NaN is not equal to itself


def test_a_word_that_older_versions_would_take_for_damage_has_a_number_of_its_own() -> None:
    """A new state or kind of event: raise both numbers, and say in their docstrings what is new."""
    words = {*(state.value for state in TrialState), *(kind.__name__ for kind in get_args(Event))}
    known = {"FINISHED", "FAILED", "KILLED", "PRUNED", "Started", "Measured", "Ended", "Joined"}
    assert (words, FORMAT, SCHEMA_VERSION) == (known, 3, 3)


def test_an_older_version_leaves_a_journal_with_pruned_trials_as_it_is(
    life: list[Event], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, life[:4])
    monkeypatch.setattr(codec, "FORMAT", 2)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"is of a newer one; update sweepstack"):
        read(path)
    assert path.read_bytes() == before


def test_a_config_is_stored_with_the_flat_keys_that_version_0_1_has_stored(
    digits_plain: Callable[..., dict[str, Any]],
) -> None:
    stored = {
        "dataset": {
            "_target_": "sweepstack.training.data.digits",
            "shape": [1, 8, 8],
            "classes": 10,
            "mean": 0.0,
            "std": 1.0,
        },
        "model": {"_target_": "sweepstack.training.models.Logistic", "shape": [1, 8, 8], "classes": 10},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
        "schedule": {"kind": "constant"},
        "epochs": 2,
        "batch_size": 100,
        "seed": 0,
        "validation_split": 0.1,
        "evaluate_every": "epoch",
        "device": "cpu",
        "precision": "float32",
        "threads": None,
        "pictures": 0,
        "tracking": {"uri": None, "journal": None, "experiment": "mine", "sweep": "unnamed"},
        "launch": {"dry_run": False, "stack": True, "width": None},
        "rerun": False,
        "retries": 2,
        "max_failures": None,
        "checkpoint": {"every": 10.0, "keep": False},
    }
    config, run = parse(digits_plain({"tracking.experiment": "mine", "retries": 2}))
    trial = Trial(config, 1, "lr=0.1", {}, Path("1"), "", run, id="x")
    assert json.loads(json.dumps(trial_as_json(trial)))["config"] == stored
    assert stored_trial({**trial_as_json(trial), "config": stored}) == (trial, "")


@pytest.mark.parametrize("place", [1, 3, 5], ids=["Started", "Measured", "Ended"])
def test_a_line_that_is_cut_off_anywhere_is_not_there_until_the_rest_of_it_is(
    path: Path, life: list[Event], place: int
) -> None:
    write(path, life[: place + 1])
    whole = path.read_bytes()
    *before, last = whole.splitlines(keepends=True)
    begin = len(whole) - len(last)
    for cut in range(begin, len(whole)):
        path.write_bytes(whole[:cut])
        reader = LogReader(path)
        assert [event for _, event in reader.events()] == life[:place]
        assert reader.offset == begin
        assert list(reader.events()) == []
        path.write_bytes(whole)
        assert list(reader.events()) == [(begin, life[place])]
    assert len(before) == place


def test_a_damaged_line_costs_the_event_that_it_was_and_no_other(path: Path, life: list[Event]) -> None:
    write(path, life)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    begin = sum(map(len, lines[:2]))
    for place in range(begin, begin + len(lines[2]) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert read(path) == [*life[:2], *life[3:]]


def test_a_sector_of_zeros_or_a_line_in_two_costs_no_other_event(path: Path, life: list[Event]) -> None:
    write(path, life)
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged in (
        b"\0" * 300 + b"\n",
        lines[2][:40] + b"\n" + lines[2][40:],
        b"\n",
        b"\xff\xfe\n",
        lines[2] + lines[3][:9] + b"\n",
    ):
        path.write_bytes(b"".join([*lines[:2], damaged, *lines[3:]]))
        kept = life if damaged.startswith(lines[2]) else [*life[:2], *life[3:]]
        assert read(path) == kept


def test_where_the_begin_of_a_trial_is_damaged_the_other_trials_are_read(path: Path, life: list[Event]) -> None:
    write(path, life)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([b"00000000" + lines[0][8:], *lines[1:]]))
    fold = Replay()
    for event in read(path):
        fold.take(event)
    assert list(fold.progress) == [life[1].trial.id]
    assert fold.progress[life[1].trial.id].outcome == DIVERGED


def test_a_clock_that_goes_backwards_gives_times_that_do_not(path: Path, trial: MakeTrial) -> None:
    journal = Journal(path)
    journal.put(Started(trial(1), 100.0, FACTS))
    put = [journal.put(replace(measured(trial(1), epoch), at=at)) for epoch, at in enumerate((90.0, 101.0, 3.0), 1)]
    journal.not_before(200.0)
    put.append(journal.put(Ended(trial(1), DONE, 102.0)))
    journal.not_before(1.0)
    put.append(journal.put(Started(trial(2), 103.0, FACTS)))
    assert [event.at for event in put] == [100.0, 101.0, 101.0, 200.0, 200.0]
    assert read(path)[1:] == put


def test_a_full_disk_is_one_line_and_leaves_whole_lines_and_a_journal_that_can_go_on(
    path: Path, life: list[Event]
) -> None:
    write(path, life[:3])
    sizes = [len(line) for line in path.read_bytes().splitlines(keepends=True)]
    path.unlink()
    told = path.with_name("told")

    def fill(room: int) -> None:
        journal = Journal(path)
        try:
            with room_for(room):
                for event in life:
                    journal.put(event)
        except StoreError as error:
            told.write_text(str(error))
        journal.put(life[2])

    for room in (sum(sizes) - 1, sum(sizes[:2]), sum(sizes[:2]) + 1):
        assert in_process(lambda room=room: fill(room)) == 0  # type: ignore[misc]
        assert told.read_text().startswith(f"the journal must be writable, {path} is not (")
        assert told.read_text().endswith(
            "make room, or choose another folder with tracking.journal=DIR; the same command then resumes"
        )
        assert "\n" not in told.read_text()
        assert read(path) == life[:3]
        path.unlink()


def test_a_folder_that_cannot_be_written_to_is_one_line_too(reachable: Path, tmp_path: Path) -> None:
    for folder in (reachable, tmp_path / "not there"):
        with (
            read_only(reachable),
            pytest.raises(StoreError, match=r"^the journal must be writable, .*tracking.journal=DIR"),
        ):
            Journal(folder / "000001.jsonl")
    assert list(reachable.iterdir()) == []


def test_a_journal_that_is_not_there_yet_is_read_as_soon_as_it_is(path: Path, life: list[Event]) -> None:
    reader = LogReader(path)
    assert list(reader.events()) == []
    write(path, life[:1])
    assert [event for _, event in reader.events()] == life[:1]
    write(path, life[1:])
    assert [event for _, event in reader.events()] == life[1:]
    assert reader.offset == path.stat().st_size
    reader.sync()


def test_a_fold_tells_what_has_become_of_each_trial(life: list[Event], trial: MakeTrial) -> None:
    fold = Replay()
    for event in (*life[:4], Joined(trial(3), 4.5)):
        fold.take(event)
    one, other = trial(1), trial(2)
    assert fold.progress == {one.id: Progress(one, 3.0, 10), other.id: Progress(other, 4.0, 10)}
    fold.take(Ended(one, replace(DONE, weights={"w": 1}, traceback="where"), 5.0))
    assert fold.progress[one.id] == Progress(one, 5.0, 10, DONE)
    assert fold.progress[one.id].outcome.traceback == ""
    assert fold.progress[one.id].outcome.weights is None


def test_a_record_that_no_journal_can_hold_is_refused_as_a_whole(
    path: Path, life: list[Event], trial: MakeTrial
) -> None:
    odd: Any = trial(3, params={"lr": object()})
    journal = Journal(path)
    journal.put(life[0])
    with pytest.raises(TypeError):
        journal.put(Started(odd, 1.0, FACTS))
    journal.put(life[2])
    assert read(path) == [life[0], life[2]]


def test_names_that_are_no_utf8_are_read_back_too(path: Path, trial: MakeTrial) -> None:
    """A folder's name may be any bytes, and so may what is typed."""
    odd = os.fsdecode(b"caf\xe9")
    write(path, [Started(trial(1, folder=Path(odd), overrides=(f"+note={odd}",)), 1.0, FACTS)])
    (event,) = read(path)
    assert (event.trial.folder, event.trial.overrides) == (Path(odd), (f"+note={odd}",))


@pytest.mark.parametrize(
    "keywords",
    [
        {"pair": {"a": [1, 1.0, True]}},
        {"x": float("inf")},
        {"sizes": {1: 2}},
    ],
)
def test_a_config_trains_the_same_when_it_comes_from_a_journal(
    path: Path, trial: MakeTrial, digits_config: Callable[..., TrialConfig], keywords: dict[str, Any]
) -> None:
    config = digits_config({f"model.{key}": value for key, value in keywords.items()})
    write(path, [Started(trial(1, config=config), 1.0, FACTS)])
    assert read(path)[0].trial.config == config
