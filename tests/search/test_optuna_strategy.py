"""Points that Optuna chooses, and the file that keeps them, without any training."""

import json
import random
from collections import Counter
from pathlib import Path

import optuna
import pytest

from sweepstack.errors import StoreError
from sweepstack.search.optuna_strategy import OptunaStrategy, StudyFile
from sweepstack.search.space import Numbers, Options, Space, Value
from sweepstack.search.strategy import Point, PointState

LINE = Space({"x": Numbers(0.0, 1.0)})
PLANE = Space({"x": Numbers(0.0, 1.0), "y": Numbers(0.0, 1.0)})
MIXED = Space({"x": Numbers(1e-4, 1.0, None, True), "size": Options(("50", "100", "200"))})


def strategy(file: Path, sampler: str = "tpe", space: Space = LINE, width: int = 8) -> OptunaStrategy:
    return OptunaStrategy(file, "a search", sampler, 0, space, ["max"], width)


def lived(file: Path, rounds: int = 4, sampler: str = "tpe", space: Space = LINE) -> OptunaStrategy:
    """A search whose later points are pruned: rounds of three points, told and kept as a command does it."""
    one = strategy(file, sampler, space)
    while len(one.points) < 3 * rounds:
        for point in [point for point in one.points if point.state is PointState.ASKED]:
            one.tell(point.number, *result(point))
        for _ in range(3):
            one.ask()
        one.keep()
    return one


def result(point: Point) -> tuple[PointState, tuple[float, ...], int]:
    state = PointState.COMPLETE if point.number < 3 else PointState.PRUNED
    return state, (float(point.values["x"]),), 1 + point.number % 3


def test_a_study_that_ends_anywhere_is_that_of_a_killed_search(tmp_path: Path) -> None:
    """Of what was written together all counts, or nothing: cut at each line, in the middle of each, and at the end."""
    whole = lived(tmp_path / "whole.jsonl")
    text = (tmp_path / "whole.jsonl").read_bytes()
    ends = [place + 1 for place, byte in enumerate(text) if byte == ord("\n")]
    middles = [(begin + end) // 2 for begin, end in zip([0, *ends], ends, strict=False)]
    for number, cut in enumerate([0, *ends, *middles]):
        file = tmp_path / f"{number}.jsonl"
        file.write_bytes(text[:cut])
        assert len(strategy(file).points) % 3 == 0
        assert lived(file).points == whole.points
        assert strategy(file).points == whole.points  # what was torn is not in the file any more


def test_a_study_that_is_damaged_says_the_line(tmp_path: Path) -> None:
    file = tmp_path / "study.jsonl"
    lived(file)
    lines = file.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        digit = next(place for place in range(len(line) // 2, len(line)) if line[place].isdigit())
        other = str((int(line[digit]) + 1) % 10)
        for damage in (
            line[:digit] + other + line[digit + 1 :],
            "no JSON\n",
            '"line"\n',
            line[: len(line) // 2] + "\n",
        ):
            file.write_text("".join([*lines[: number - 1], damage, *lines[number:]]))
            with pytest.raises(StoreError, match=f"line {number} is damaged") as caught:
                StudyFile(file)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("without", [{"last", "checksum"}, {"last", "checksum", "line"}])
def test_a_study_of_a_development_version_or_of_optuna_itself_goes_on(tmp_path: Path, without: set[str]) -> None:
    file = tmp_path / "study.jsonl"
    lived(file, 2)
    logs = [json.loads(line) for line in file.read_text().splitlines()]
    older = [{key: one for key, one in log.items() if key not in without} for log in logs]
    file.write_text("".join(json.dumps(log) + "\n" for log in older))
    points = lived(file, 3).points
    assert points == lived(tmp_path / "whole.jsonl", 3).points == strategy(file).points


def test_notes_that_others_write_meanwhile_stay(tmp_path: Path) -> None:
    file = tmp_path / "study.jsonl"
    one = lived(file, 1)
    note = json.dumps({"op_code": 2, "worker_id": "dashboard", "study_id": 0, "user_attr": {"note": "mine"}}) + "\n"
    with file.open("a") as stream:
        stream.write(note)
    one.ask()
    one.keep()
    assert note in file.read_text()
    assert len(strategy(file).points) == 4


def test_a_point_that_does_not_lie_in_the_space_of_its_study_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "study.jsonl"
    one = strategy(file)
    one._study.add_trial(_outside())
    one.keep()
    with pytest.raises(StoreError, match="its point 0 does not lie in its space"):
        strategy(file)


def _outside() -> optuna.trial.FrozenTrial:
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        "x": optuna.distributions.FloatDistribution(2.0, 3.0)
    }
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING, params={"x": 2.5}, distributions=distributions
    )


@pytest.mark.parametrize("widened", [False, True])
def test_a_pruned_point_that_came_further_is_the_better_one(tmp_path: Path, widened: bool) -> None:
    """Whatever its value: at a later rung it was better than those that left before. A wider space knows it, too."""
    file = tmp_path / "study.jsonl"
    one = strategy(file)
    _tell_by_rung(one, 40)
    one.keep()
    if widened:
        one = strategy(file, space=Space({"x": Numbers(0.0, 1.01)}))
        assert one.taken_over == (40, 40)
        assert [point.objectives for point in one.points] == [point.objectives for point in strategy(file).points]
    assert _tell_by_rung(one, 20) >= 15  # 1 of 20 if the rung is the same for all


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_what_a_paused_point_has_reached_counts_until_there_is_a_result(tmp_path: Path, sampler: str) -> None:
    """As if it had ended so. The study does not say that it has; its result may be another one."""
    paused, ended, open_one = (lived(tmp_path / name, sampler=sampler, space=PLANE) for name in ("a", "b", "c"))
    number = next(point.number for point in paused.points if point.state is PointState.ASKED)
    paused.take_interim(number, PointState.PRUNED, [2.0], 9)
    ended.tell(number, PointState.PRUNED, [2.0], 9)
    assert [paused.ask().values for _ in range(8)] == [ended.ask().values for _ in range(8)]
    assert paused.points[-8:] != [open_one.ask() for _ in range(8)]
    paused.keep()
    assert paused.points[number].state is PointState.ASKED
    again = strategy(tmp_path / "a", sampler, PLANE)
    assert again.points == paused.points
    again.tell(number, PointState.COMPLETE, [0.5])
    assert again.points[number].objectives == (0.5,)
    again.ask()


def _tell_by_rung(one: OptunaStrategy, number: int) -> int:
    """Asks for points; returns how many came to a later rung, with the smaller value."""
    found = 0
    for _ in range(number):
        point = one.ask()
        far = float(point.values["x"]) > 0.5
        one.tell(point.number, PointState.PRUNED, [0.1 if far else 0.9], 9 if far else 1)
        found += far
    return found


def test_cmaes_learns_from_pruned_points(tmp_path: Path) -> None:
    """Most of a search with a pruner are."""
    space = Space({"x": Numbers(0.0, 1.0), "y": Numbers(0.0, 1.0)})
    one = strategy(tmp_path / "study.jsonl", "cmaes", space)
    for number in range(60):
        point = one.ask()
        x, y = float(point.values["x"]), float(point.values["y"])
        state = PointState.PRUNED if number % 10 else PointState.COMPLETE
        one.tell(point.number, state, [-((x - 0.8) ** 2) - (y - 0.2) ** 2], 3)
    first, last = one.points[:10], one.points[-10:]
    assert _distance(last) < _distance(first) / 2


def _distance(points: list[Point]) -> float:
    return sum(abs(float(one.values["x"]) - 0.8) + abs(float(one.values["y"]) - 0.2) for one in points) / len(points)


def test_what_does_not_lie_in_a_narrower_space_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "study.jsonl"
    before = lived(file)
    narrow = strategy(file, space=Space({"x": Numbers(0.3, 0.7)}))
    inside = [point for point in before.points if 0.3 <= float(point.values["x"]) <= 0.7]
    assert narrow.taken_over == (len(inside), len(before.points))
    assert [point.values for point in narrow.points] == [point.values for point in inside]
    other = strategy(file, space=Space({"x": Options(("0.1", "0.2"))}))
    assert other.points == []
    narrow.keep()
    assert strategy(file).points == before.points  # the wider search is as it was


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_points_are_drawn_from_the_distribution_however_many_are_asked_at_a_time(tmp_path: Path, sampler: str) -> None:
    """400 of each; limits of four standard deviations."""
    drawn = [strategy(tmp_path / f"{width}.jsonl", sampler, MIXED, width) for width in (1, 64)]
    points = [[dict(one.ask().values) for _ in range(400)] for one in drawn]
    assert points[0] == points[1]
    sizes = Counter(point["size"] for point in points[0])
    assert all(abs(number - 400 / 3) < 4 * (400 * 2 / 9) ** 0.5 for number in sizes.values())
    decades = Counter(_decade(point["x"]) for point in points[0])
    assert all(abs(number - 100) < 4 * (400 * 3 / 16) ** 0.5 for number in decades.values())
    assert (len(sizes), len(decades)) == (3, 4)


def _decade(value: Value) -> int:
    return len(f"{1 / float(value):.0f}")


def test_the_same_history_gives_the_same_next_point(tmp_path: Path) -> None:
    """Whatever was asked of the random numbers of this process meanwhile."""
    points = []
    for number in range(2):
        random.seed(number)
        points.append(lived(tmp_path / f"{number}.jsonl", 6, space=MIXED).points)
    assert points[0] == points[1]
