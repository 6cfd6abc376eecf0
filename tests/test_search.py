"""Searches as they are typed: what is asked for is trained once, whatever dies, and Optuna can open the study."""

import itertools
import json
import re
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sweepstack.errors import StoreError
from sweepstack.hydra_adapter.search import supply
from sweepstack.journal.log import Journal
from sweepstack.search.optuna_strategy import OptunaStrategy, StudyFile
from sweepstack.search.space import Numbers, Options, Space
from sweepstack.search.strategy import PointState
from sweepstack.tracking.runs_as_rows import Row
from sweepstack.tracking.store import Store

from . import here
from .stories import in_process, killed_at
from .terminal import ROOT, Terminal, new_store

SMALL = ("dataset=digits", "epochs=2", "device=cpu", "threads=1", "launch.stack=force", "checkpoint.every=0")
RATES = "optimizer.lr=tag(log,interval(1e-3,1))"
SPACE = (*SMALL, RATES, "batch_size=50,100")
TPE = (*SPACE, "search=tpe", "engine=inline")


@pytest.fixture
def folder(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store, in which commands are typed."""
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    return terminal.folder


def search(*words: str) -> str:
    """Types a search; returns what it prints."""
    done = here.train("-m", *words)
    assert done.code == 0, done.err
    return done.out


def studies(folder: Path) -> list[optuna.Study]:
    """The latest study of each search, as Optuna itself opens it."""
    found = []
    for file in sorted(folder.glob("journal/mlflow.db/searches/*.jsonl")):
        storage = JournalStorage(JournalFileBackend(str(file)))
        found.append(optuna.load_study(study_name=storage.get_all_studies()[-1].study_name, storage=storage))
    return found


def recorded(folder: Path) -> dict[tuple[str, ...], tuple[str, float]]:
    """Of each run in the store its state and its objective, by learning rate, batch size and seed."""
    question = """
        SELECT lr.value, bs.value, seed.value, runs.status, coalesce(latest_metrics.value, -1) FROM runs
        JOIN params lr ON lr.run_uuid = runs.run_uuid AND lr.key = 'lr'
        JOIN params bs ON bs.run_uuid = runs.run_uuid AND bs.key = 'batch_size'
        JOIN params seed ON seed.run_uuid = runs.run_uuid AND seed.key = 'seed'
        LEFT JOIN latest_metrics ON latest_metrics.run_uuid = runs.run_uuid AND latest_metrics.key = 'val/accuracy'
    """
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        rows = database.execute(question).fetchall()
    found = {tuple(row[:3]): tuple(row[3:]) for row in rows}
    assert len(found) == len(rows)  # nothing is there twice
    return found


def values(study: optuna.Study) -> list[tuple[object, ...]]:
    """Of each trial of a study: its params, its state and its values."""
    return [(one.params, one.state, one.values) for one in study.trials]


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "cmaes", "gp"])
def test_a_search_trains_what_its_budget_says_and_the_same_command_trains_nothing(folder: Path, sampler: str) -> None:
    command = (*SPACE, f"search={sampler}", "search.trials=14", "engine=inline")
    assert "14 trials" in search(*command)
    (study,), runs = studies(folder), recorded(folder)
    assert len(runs) == len({str(one) for one in values(study)}) == 14
    assert {state for state, _ in runs.values()} == {"FINISHED"}
    assert all(1e-3 <= float(lr) <= 1 and bs in ("50", "100") for lr, bs, _ in runs)
    assert study.best_value == max(value for _, value in runs.values())
    before = values(study)
    assert "14 trials trained before" in search(*command)
    assert (recorded(folder), values(*studies(folder))) == (runs, before)


def test_two_seeds_of_a_search_choose_other_points_and_one_seed_the_same(folder: Path) -> None:
    command = (*TPE, "search.trials=4")
    search(*command, "tracking.experiment=a")
    search(*command, "tracking.experiment=b")
    search(*command, "tracking.experiment=a", "search.seed=1")
    points = [[one.params for one in study.trials] for study in studies(folder)]
    assert sorted(map(points.count, points)) == [1, 2, 2]


def test_a_budget_in_epochs_or_until_nothing_gets_better(folder: Path) -> None:
    search(*TPE, "search.epochs=10", "search.width=1")
    assert len(recorded(folder)) == 5  # of two epochs each
    search(*SMALL, RATES, "search=random", "search.patience=6", "engine=inline", "search.width=1")
    (objectives,) = [[one.value for one in study.trials] for study in studies(folder) if "random" in study.study_name]
    best = objectives.index(max(objectives))
    assert len(objectives) == best + 1 + 6


def test_the_minutes_of_a_budget_are_those_of_each_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute passes whenever the search looks at the clock."""
    for number in (4, 8):
        clock = itertools.count(0.0, 30.0)
        monkeypatch.setattr(supply, "time", SimpleNamespace(monotonic=lambda clock=clock: next(clock)))
        search(*TPE, "search.minutes=2", "search.width=1", "epochs=1")
        assert len(recorded(folder)) == number


def test_the_best_trial_of_a_search_may_be_one_that_an_earlier_command_has_trained(folder: Path) -> None:
    search(*SPACE, "search=qmc", "search.trials=9", "engine=inline")
    best = max(value for _, value in recorded(folder).values())
    out = search(*SPACE, "search=qmc", "search.trials=10", "engine=inline")
    assert sorted(value for _, value in recorded(folder).values())[-1] == best
    assert re.search(
        rf"^best val/accuracy {best:.4f} \(.*\); 10 trials: 1 finished, 9 known before$", out, re.MULTILINE
    )


def test_no_more_points_are_out_than_the_width_says(folder: Path) -> None:
    search(*TPE, "search.trials=9", "search.width=3")
    (file,) = folder.glob("journal/mlflow.db/searches/*.jsonl")
    out = most = 0
    for line in file.read_text().splitlines():
        operation = json.loads(line)["op_code"]
        out += {4: 1, 6: -1}.get(operation, 0)  # Optuna's codes of a new trial and of a state
        most = max(most, out)
    assert (out, most) == (0, 3)


def test_the_objective_is_the_mean_over_the_seeds_of_a_point(folder: Path) -> None:
    search(*TPE, "search.trials=8", "search.seeds=2", "seed=5")
    runs, (study,) = recorded(folder), studies(folder)
    assert {seed for _, _, seed in runs} == {"5", "6"}
    assert {row.asked for row in Store(f"sqlite:///{folder}/mlflow.db").rows()} == {"2: 5, 6"}
    assert len(runs) == 2 * len(study.trials) == 8
    means = {(f"{one.params['optimizer.lr']:.6g}", one.params["batch_size"]): one.value for one in study.trials}
    for (lr, bs), mean in means.items():
        both = [value for (of, size, _), (_, value) in runs.items() if (f"{float(of):.6g}", size) == (lr, bs)]
        assert (len(both), sum(both) / 2) == (2, pytest.approx(mean))


def test_models_of_other_shapes_are_trained_in_stacks_of_their_own(folder: Path) -> None:
    shapes = "model.hidden=choice([16],[32,16])"
    out = search(*SPACE, "model=mlp", shapes, "search=random", "search.trials=12", "engine=inline")
    (study,) = studies(folder)
    assert {one.params["model.hidden"] for one in study.trials} == {"[16]", "[32,16]"}
    groups = len({(one.params["model.hidden"], one.params["batch_size"]) for one in study.trials})
    assert f"12 trials -> 12 trajectories -> {groups} stacks" in out


def test_what_is_trained_together_does_not_change_which_points_are_asked_for(folder: Path, tmp_path: Path) -> None:
    """Two batch sizes are two stacks. The points are those of a strategy that only hears of the results."""
    search(*TPE, "search.trials=24", "search.width=6")
    (study,) = studies(folder)
    space = Space({"optimizer.lr": Numbers(1e-3, 1.0, None, True), "batch_size": Options(("50", "100"))})
    alone = OptunaStrategy(tmp_path / "alone.jsonl", "alone", "tpe", 0, space, ["max"], 6)
    for begin in range(0, 24, 6):
        for _ in range(6):
            alone.ask()
        for trial in study.trials[begin : begin + 6]:
            alone.tell(trial.number, PointState.COMPLETE, trial.values)
    assert [point.values for point in alone.points] == [trial.params for trial in study.trials]


def test_lists_side_by_side(folder: Path) -> None:
    pairs = (
        "optimizer.lr=0.1,0.2,0.3",
        "batch_size=50,100,200",
        "search.zip=[[batch_size,optimizer.lr]]",
    )
    search(*SMALL, *pairs)
    expected = {("0.1", "50", "0"), ("0.2", "100", "0"), ("0.3", "200", "0")}
    assert recorded(folder).keys() == expected
    search(*SMALL, *pairs, "search=tpe", "search.trials=6", "engine=inline")
    assert recorded(folder).keys() == expected
    (study,) = studies(folder)
    assert {one.params["batch_size and optimizer.lr"] for one in study.trials} <= {
        "50 and 0.1",
        "100 and 0.2",
        "200 and 0.3",
    }


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_key_that_a_point_has_under_a_condition(folder: Path, sampler: str) -> None:
    (folder / "my_conf" / "space").mkdir(parents=True)
    (folder / "my_conf" / "space" / "space.yaml").write_text(
        "# @package _global_\nsearch:\n  when:\n    optimizer.momentum: optimizer=sgd\n"
        "hydra:\n  sweeper:\n    params:\n      optimizer: sgd,adam\n      optimizer.momentum: interval(0.1,0.9)\n"
    )
    words = ("+space=space", f"search={sampler}", "search.trials=16", "engine=inline")
    search("--config-dir", "my_conf", *SMALL, *words)
    (study,) = studies(folder)
    kinds = {one.params["optimizer"]: len(one.params) for one in study.trials}
    assert kinds == {"sgd": 2, "adam": 1}
    assert "search.when" not in search(
        "--config-dir", "my_conf", *SMALL, *words, "optimizer=adam", "search.trials=2", "optimizer.lr=0.1,0.2"
    )


def test_a_condition_names_a_number_of_a_range(folder: Path) -> None:
    space = ("optimizer.lr=range(0.1,0.4,0.1)", "optimizer.momentum=0.5,0.9", "clip_norm=interval(1.0,2.0)")
    words = ("-m", "dataset=digits", "epochs=1", "device=cpu", *space, "search=random", "search.trials=12")
    refused = {
        "clip_norm=1.5": "an interval of fractions has none, got '1.5'; list the values of that key",
        "optimizer.lr=0.25": "must name one of the numbers from 0.1 to 0.3 in steps of 0.1, got '0.25'",
        "optimizer.lr=fast": "must name one of the numbers",
    }
    for condition, line in refused.items():
        done = here.train(*words, f"+search.when={{optimizer.momentum:'{condition}'}}")
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert line in done.err
    search(*words[1:], "+search.when={optimizer.momentum:'optimizer.lr=0.10'}", "engine=inline")
    (study,) = studies(folder)
    fulfilled = {"optimizer.momentum" in one.params for one in study.trials if one.params["optimizer.lr"] == 0.1}
    others = {"optimizer.momentum" in one.params for one in study.trials if one.params["optimizer.lr"] != 0.1}
    assert (fulfilled, others) == ({True}, {False})


def test_conditions_compare_values_and_may_have_conditions_themselves(folder: Path) -> None:
    when = "+search.when={optimizer.momentum:'optimizer.lr=0.10',clip_norm:'optimizer.momentum=5e-1'}"
    words = ("dataset=digits", "epochs=1", "batch_size=50,100", when, "search=random", "search.trials=2")

    def planned(*own: str) -> str:
        return search(*words, "launch.dry_run=true", *own)

    both = ("optimizer.momentum=0.5,0.9", "clip_norm=1.0,2.0")
    out = planned(*both, "optimizer.lr=1e-1")  # the value that the condition names, written otherwise
    assert "optimizer.momentum: one of 0.5, 0.9\n    clip_norm: one of 1.0, 2.0, when optimizer.momentum=0.5\n" in out
    assert "6 different points" in out
    out = planned(*both, "optimizer.lr=0.2")  # without the momentum there is no clip_norm either
    assert "2 different points\n    batch_size: one of 50, 100\n" in out
    assert "momentum" not in out
    out = planned(
        "optimizer.momentum=0.5", "clip_norm=1.0,2.0", "optimizer.lr=0.1,0.2"
    )  # one value keeps its condition
    assert "optimizer.momentum: one of 0.5, when optimizer.lr=0.1\n" in out
    assert "6 different points" in out


def test_a_sampler_says_which_keys_it_draws_at_random(folder: Path) -> None:
    words = (*SPACE, "search.trials=9", "launch.dry_run=true", "+search.when={optimizer.momentum:'batch_size=50'}")
    keys = {"cmaes": "batch_size, optimizer.momentum", "gp": "optimizer.momentum", "nsga2": "optimizer.momentum"}
    for sampler in ("cmaes", "gp", "nsga2", "tpe"):
        out = search(*words, "optimizer.momentum=interval(0.1,0.9)", f"search={sampler}")
        assert re.findall(r"draws (.*) at random", out) == ([keys[sampler]] if sampler in keys else [])


def test_the_width_of_a_budget_in_epochs_is_that_of_the_longest_trainings(folder: Path) -> None:
    words = ("dataset=digits", RATES, "epochs=int(interval(1,27))", "search.epochs=270", "launch.dry_run=true")
    assert "search=tpe until 270 trial-epochs; 4 points at a time" in search(*words, "search=tpe")
    out = search(*words, "search=tpe", "search.trials=2000000")
    assert "search=tpe until 2000000 trials or 270 trial-epochs; 4 points at a time" in out


def test_a_search_of_no_time_trains_its_first_point(folder: Path) -> None:
    search(*TPE, "search.minutes=0.0000001", "epochs=1")
    assert len(recorded(folder)) == 1


def test_trials_of_other_data_are_searched_if_their_targets_are_the_same(folder: Path) -> None:
    rows = [(row % 7, row % 3, row % 2) for row in range(60)]
    for name, shift in (("one", 0), ("other", 1)):
        lines = [f"{a},{b},{'yes' if (c + shift * (a > 3)) % 2 else 'no'}" for a, b, c in rows]
        (folder / f"{name}.csv").write_text("\n".join(["a,b,c", *lines]))
    words = ("-m", "dataset=table", "dataset.predict=c", "model=logistic", "epochs=1", "device=cpu", "search=random")
    budget = ("search.trials=4", "engine=inline")
    done = here.train(*words, *budget, "dataset.file=one.csv", "dataset.columns=[a],[b]")
    assert done.code == 0, done.err
    done = here.train(*words, *budget, "dataset.file=one.csv,other.csv")
    assert (done.code, done.err.count("error: ")) == (2, 1), done.err
    assert "the same held-out items, and some have other data, got 'dataset.file=one.csv and dataset.f" in done.err


def test_a_widened_space_keeps_its_history(folder: Path) -> None:
    search(*TPE, "search.trials=6")
    before = recorded(folder)
    (study,) = studies(folder)
    points = [one.params for one in study.trials]
    search(
        *SMALL,
        "optimizer.lr=tag(log,interval(1e-4,10))",
        "batch_size=50,100,200",
        *TPE[len(SPACE) :],
        "search.trials=9",
    )
    (study,) = studies(folder)
    assert [one.params for one in study.trials][:6] == points
    assert len(study.trials) == 9
    assert before.items() <= recorded(folder).items()
    assert len(recorded(folder)) == 9


def test_a_widened_space_keeps_its_history_where_other_keys_follow_from_it(folder: Path) -> None:
    words = (*SMALL, "optimizer.lr=${vars.rate}", "batch_size=50", "search=random", "engine=inline")
    search(*words, "+vars.rate=interval(0.1,0.2)", "search.trials=3")
    out = search(*words, "+vars.rate=interval(0.05,0.2)", "search.trials=4")
    assert "3 of 3 points of the same search with other values lie in this space: taken over" in out


def test_a_widened_space_knows_how_far_pruned_points_came(folder: Path) -> None:
    words = ("search.width=8", "pruner=halving", "epochs=9", "batch_size=100", *TPE[len(SPACE) :])
    search(*SMALL, RATES, *words, "search.trials=12")
    (study,) = studies(folder)
    rungs = [one.intermediate_values for one in study.trials]
    pruned = [one for one in study.trials if one.state is TrialState.PRUNED]
    assert {step for one in pruned for step in one.intermediate_values} == {1, 3}
    assert all([*one.intermediate_values.values()] == one.values for one in pruned)
    wide = (*SMALL, "optimizer.lr=tag(log,interval(1e-4,10))", *words, "search.trials=13")
    assert "12 of 12 points of the same search with other values lie in this space: taken over" in search(*wide)
    (study,) = studies(folder)
    assert [one.intermediate_values for one in study.trials][:12] == rungs
    narrow = (*SMALL, "optimizer.lr=tag(log,interval(1e-7,1e-6))", *words, "search.trials=1", "launch.dry_run=true")
    assert "0 of 13 points of the same search with other values lie in this space" in search(*narrow)


def test_points_of_other_lengths_that_leave_at_one_rung_came_as_far(folder: Path) -> None:
    """Rung 3 of 9 is measured after 3 epochs of 7, 8 and 9: not the same part of each."""
    words = ("epochs=7,8,9", "batch_size=100", "search.width=12", "pruner=halving", *TPE[len(SPACE) :])
    search(*(word for word in SMALL if word != "epochs=2"), RATES, *words, "search.trials=12")
    (study,) = studies(folder)
    left = {(one.params["epochs"], *one.intermediate_values) for one in study.trials if one.intermediate_values}
    assert {step for _, step in left} == {1, 3}
    assert {("7", 3), ("8", 3)} <= left


def test_what_a_grid_has_trained_is_known_to_a_search(folder: Path) -> None:
    search(*SMALL, "optimizer.lr=0.01,0.1", "batch_size=50,100")
    assert "trained before" in search(
        *SMALL, "optimizer.lr=0.01,0.1", "batch_size=50,100", "search=random", "search.trials=4"
    )
    assert len(recorded(folder)) == 4


def test_a_trial_that_diverges_is_a_failed_point(folder: Path) -> None:
    done = here.train(
        "-m", *SMALL, "optimizer.lr=interval(1e37,1e38)", "search=tpe", "search.trials=2", "engine=inline"
    )
    assert done.code == 1
    (study,) = studies(folder)
    assert [one.state for one in study.trials] == [TrialState.FAIL] * 2


def test_a_point_that_failed_for_a_reason_that_passes_is_told_by_the_next_command(folder: Path) -> None:
    (folder / "on_a_full_disk.py").write_text(
        "from pathlib import Path\n"
        "def train(config, context):\n"
        "    if config.optimizer.lr == 0.2 and not Path('room').exists():\n"
        "        raise OSError('no room')\n"
        "    context.report({'val/accuracy': config.optimizer.lr}, 1)\n"
    )
    loop = "trainer={_target_:on_a_full_disk.train}"
    space = ("optimizer.lr=0.1,0.2,0.3", "search=qmc", "search.width=1", "search.patience=9", "engine=inline")
    command = ("-m", "dataset=digits", "epochs=1", "device=cpu", "retries=0", loop, *space)
    states = []
    for code in (1, 0):
        assert here.train(*command).code == code
        (study,) = studies(folder)
        states.append({one.params["optimizer.lr"]: (one.state.name, one.value) for one in study.trials})
        (folder / "room").touch()
    expected = {"0.1": ("COMPLETE", 0.1), "0.3": ("COMPLETE", 0.3)}
    assert states == [{**expected, "0.2": ("RUNNING", None)}, {**expected, "0.2": ("COMPLETE", 0.2)}]


def test_a_point_whose_values_do_not_go_together_counts_as_failed(folder: Path) -> None:
    """Nesterov's momentum needs one."""
    space = ("optimizer.nesterov=false,true", "optimizer.momentum=0.9,0.0", "batch_size=100")
    command = ("-m", *SMALL, *space, "search=random", "search.trials=40", "search.width=4", "engine=inline")
    for _ in range(2):
        done = here.train(*command)
        assert done.code == 1, done.err
        assert "counts as failed" in done.out
        (study,) = studies(folder)
        points = {
            (one.params["optimizer.nesterov"].lower(), one.params["optimizer.momentum"]): one.state
            for one in study.trials
        }
        assert points.pop(("true", "0.0")) is TrialState.FAIL
        assert [*points.values()] == [TrialState.COMPLETE] * 3


def test_two_objectives_are_the_metric_and_the_cost(folder: Path) -> None:
    search(*SMALL, RATES, "epochs=int(interval(1,3))", "search=nsga2", "search.trials=12", "engine=inline")
    (study,) = studies(folder)
    assert [one.name for one in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert all(one.values[1] == one.params["epochs"] for one in study.trials)


def test_several_workers_are_given_further_points_as_they_become_free(terminal: Terminal) -> None:
    done = terminal.type(
        "train.py", "-m", *SPACE, "search=tpe", "search.trials=16", "search.width=4", "engine=local", "engine.workers=2"
    )
    assert done.returncode == 0, done.stderr
    (study,) = studies(terminal.folder)
    assert [one.state for one in study.trials] == [TrialState.COMPLETE] * 16
    assert len(recorded(terminal.folder)) == 16


def test_code_in_a_worker_finds_its_job_also_if_that_came_after_the_worker_was_forked(terminal: Terminal) -> None:
    (terminal.folder / "net.py").write_text(
        "import os\nimport torch\nfrom hydra.core.hydra_config import HydraConfig\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self, shape, classes):\n"
        "        super().__init__(64, 10)\n"
        "        with open('jobs', 'a') as file:\n"
        "            file.write(f'{os.getpid()} {HydraConfig.get().job.num}\\n')\n"
        "    def forward(self, images):\n"
        "        return super().forward(images.flatten(1))\n"
    )
    model = "model={_target_: net.Net}"
    command = (*SPACE, model, "search=tpe", "search.trials=8", "search.width=4", "engine=local", "engine.workers=2")
    done = terminal.type("train.py", "-m", *command)
    assert done.returncode == 0, done.stderr
    seen = [tuple(line.split()) for line in (terminal.folder / "jobs").read_text().splitlines()]
    controller = seen[0][0]
    assert {job for process, job in seen if process != controller} == {str(number) for number in range(8)}


def test_a_space_that_is_trained_to_its_end_ends_the_search(folder: Path) -> None:
    out = search(*SMALL, "optimizer.lr=0.1,0.2", "batch_size=50,100", "search=tpe", "search.trials=99", "engine=inline")
    assert "all 4 points of the space are asked" in out
    assert "; 4 trials: 4 finished\n" in out  # nothing is left, though the budget is not spent
    assert len(recorded(folder)) == 4


def test_the_last_line_knows_what_was_trained_before_and_that_nothing_is_left(folder: Path) -> None:
    words = (*SMALL, "batch_size=50,100", "search=random", "search.trials=7", "engine=inline")
    first = search(*words, "optimizer.lr=0.1").splitlines()
    (last,) = [line for line in first if line.startswith("best val/accuracy")]
    assert last.endswith("; 2 trials: 2 finished")  # five points repeat the first two
    again = search(*words, "optimizer.lr=0.1,0.001").splitlines()
    (now,) = [line for line in again if line.startswith("best val/accuracy")]
    assert now.split()[2] == last.split()[2]  # the new ones are worse
    assert now.endswith("; 4 trials: 2 finished, 2 known before")
    assert any(
        line.endswith("; 4 trials: 4 known before") for line in search(*words, "optimizer.lr=0.1,0.001").splitlines()
    )


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "cmaes"])
def test_each_fraction_of_a_range_is_a_point(folder: Path, sampler: str) -> None:
    rates = [f"0.{tenths}" for tenths in range(1, 8)]
    command = ("dataset=digits", "epochs=1", "device=cpu", "optimizer.lr=range(0.1,0.8,0.1)", "engine=inline")
    search(*command, f"search={sampler}", "search.trials=60")
    assert sorted(lr for lr, _, _ in recorded(folder)) == rates


def test_whole_numbers_by_their_logarithm_as_the_error_says(folder: Path) -> None:
    words = ("batch_size=tag(log,int(interval(16,64)))", "search=random", "search.trials=2", "engine=inline")
    search("dataset=digits", "epochs=1", "device=cpu", *words)
    assert all(16 <= int(size) <= 64 for _, size, _ in recorded(folder))


def test_a_fraction_that_an_own_model_cannot_take_is_found_before_anything_trains(folder: Path) -> None:
    (folder / "net_of_width.py").write_text(
        "import torch\n"
        "def make(shape, classes, width):\n"
        "    layers = torch.nn.Linear(64, width), torch.nn.Linear(width, classes)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), *layers)\n"
    )
    model = "model={_target_:net_of_width.make}"
    words = (model, "+model.width=interval(8.0,16.0)", "search=random", "search.trials=9")
    done = here.train("-m", "dataset=digits", "epochs=1", "device=cpu", *words)
    assert done.code == 2, done.err
    assert "model.width=11.056" in done.err
    assert not [*folder.glob("journal/mlflow.db/searches/*.jsonl")]


def test_a_dry_run_shows_the_space_the_budget_and_the_first_points(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    out = search(*TPE, "search.trials=64", "launch.dry_run=true")
    assert "search=tpe until 64 trials; 8 points at a time" in out
    assert "optimizer.lr: from 0.001 to 1.0, by the logarithm" in out
    assert "batch_size: one of 50, 100" in out
    assert "8 trials -> 8 trajectories" in out
    assert sorted(folder.rglob("*")) == before


def test_how_the_settings_were_chosen_is_known_to_compare(folder: Path) -> None:
    search(*TPE, "search.trials=6", "tracking.sweep=learned")
    search(*SPACE, "search=random", "search.trials=6", "tracking.sweep=drawn")
    search(*SPACE, "search=qmc", "search.trials=6", "tracking.sweep=spread")
    done = here.sweepstack("compare", "learned", "drawn", "--json")
    assert done.code == 0, done.err
    shown = {"learned": "adaptive search: no band", "drawn": "random search: 95 %", "spread": "random search: no band"}
    for name, band in shown.items():
        out = here.sweepstack("compare", name).out
        assert f"{name}, {band}" in out
        assert ("search=qmc spreads its points evenly" in out) is (name == "spread")


def test_points_that_a_pruner_ends_are_told_with_their_last_value(folder: Path) -> None:
    search(*TPE, "search.trials=16", "search.width=8", "pruner=halving", "epochs=9", "batch_size=100")
    (study,) = studies(folder)
    states = [one.state for one in study.trials]
    assert {*states} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert all(one.value is not None for one in study.trials)
    assert "16 trials" in search(
        *TPE, "search.trials=16", "search.width=8", "pruner=halving", "epochs=9", "batch_size=100"
    )
    assert [one.state for one in studies(folder)[0].trials] == states


def test_the_seeds_of_a_point_leave_together_and_their_mean_decides(folder: Path) -> None:
    search(*TPE, "search.trials=24", "search.width=8", "search.seeds=3", "pruner=halving", "epochs=9", "batch_size=100")
    rows = Store(f"sqlite:///{folder}/mlflow.db").rows()
    points: dict[object, list[Row]] = {}
    for row in rows:
        points.setdefault(row.params["lr"], []).append(row)
    assert sorted(map(len, points.values())) == [3] * 8
    assert all(len({(one.state, one.reason) for one in seeds}) == 1 for seeds in points.values())
    assert {row.state for row in rows} == {"FINISHED", "PRUNED"}
    (study,) = studies(folder)
    for trial in study.trials:
        seeds = points[f"{trial.params['optimizer.lr']:.6g}"]
        assert trial.value == pytest.approx(sum(one.metrics["val/accuracy"] for one in seeds) / 3)
        assert trial.state.name == ("PRUNED" if seeds[0].state == "PRUNED" else "COMPLETE")


def test_the_gaussian_process_says_that_a_pruner_leaves_it_little_to_learn_from(folder: Path) -> None:
    line = "search=gp learns from whole trainings alone, of which pruner=halving leaves few: tpe uses all"
    words = (*SPACE, "search.trials=9", "launch.dry_run=true")
    assert line in search(*words, "search=gp", "pruner=halving")
    assert "learns from" not in search(*words, "search=gp") + search(*words, "search=tpe", "pruner=halving")


def test_a_budget_in_epochs_counts_what_pruned_trials_have_trained(folder: Path) -> None:
    search(*TPE, "search.epochs=45", "search.width=6", "pruner=halving", "epochs=9", "batch_size=100")
    assert len(recorded(folder)) > 6


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml")))
def test_a_named_sweep_says_when_to_use_it_and_can_be_planned(folder: Path, name: str) -> None:
    package, when, *_ = (ROOT / "sweeps" / f"{name}.yaml").read_text().split("\n")
    assert package == "# @package _global_"
    assert when.startswith("# ")
    text = (ROOT / "sweeps" / f"{name}.yaml").read_text()
    assert "When " in text
    assert f"python train.py -m sweeps={name}" in text
    assert "stack 1" in search("dataset=digits", "device=cpu", "threads=1", f"sweeps={name}", "launch.dry_run=true")


SMALLER = {
    "lr": ("optimizer.lr=0.1,0.3",),
    "lr_batch_epochs": ("optimizer.lr=0.1,0.3", "batch_size=100", "epochs=1,2"),
    "random": ("search.trials=4",),
    "tpe": ("search.trials=4",),
    "halving_grid": ("optimizer.lr=0.1,0.3", "batch_size=100", "epochs=3"),
    "hyperband": ("search.trials=4", "epochs=3"),
    "seeds": ("optimizer.lr=0.1", "seed=0,1,2,3"),
}
"""Named sweeps, each with what makes it small."""


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml")))
def test_a_named_sweep_trains(folder: Path, name: str) -> None:
    words = [*SMALL, f"sweeps={name}", "engine=inline", *SMALLER[name]]
    search(*(word for word in words if word != "epochs=2" or "epochs=" not in "".join(SMALLER[name])))
    states = [row.state for row in Store(f"sqlite:///{folder}/mlflow.db").rows()]
    assert {*states} <= {"FINISHED", "PRUNED"}
    assert len(states) == (2 if name in ("lr", "halving_grid") else 4)


def test_what_the_changelog_and_the_readme_call_a_named_sweep_is_one() -> None:
    found = {path.stem for path in (ROOT / "sweeps").glob("*.yaml")}
    (listed,) = re.findall(r"^- Named sweeps (.*?)\.", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE | re.DOTALL)
    promised = {*re.findall(r"`(\w+)`", listed)}
    assert {"halving_grid", "hyperband"} < promised <= found
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
    named = {name for page in pages for name in re.findall(r"\bsweeps=([a-z]\w+)", page.read_text())}
    assert named <= found


# --- Whatever dies, whenever

KILLS: dict[str, Callable[[], None]] = {
    "before the first points are kept": lambda: killed_at(StudyFile, "keep", 1),
    "after the first points are kept": lambda: killed_at(StudyFile, "keep", 1, after=True),
    "while the first points train": lambda: killed_at(Journal, "put", 9),
    "before further points are kept": lambda: killed_at(StudyFile, "keep", 2),
    "while others train": lambda: killed_at(Journal, "put", 33),
    "before the last results are kept": lambda: killed_at(StudyFile, "keep", 4),
}


LEARNED = (*TPE, "search.trials=14", "search.width=5")
PRUNED = (*LEARNED, "pruner=halving", "epochs=9")


@pytest.fixture(scope="module", params=[LEARNED, PRUNED], ids=["whole", "pruned"])
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path, request: pytest.FixtureRequest
) -> tuple[tuple[str, ...], object, object]:
    """A search, and what it comes to if nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    store = new_store(folder, empty_database)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", store.uri)
        search(*request.param)
    return request.param, recorded(folder), values(*studies(folder))


@pytest.mark.parametrize("moment", KILLS)
def test_a_search_that_was_killed_ends_as_an_undisturbed_one(
    undisturbed: tuple[tuple[str, ...], object, object], folder: Path, moment: str
) -> None:
    words, *expected = undisturbed

    def story() -> None:
        KILLS[moment]()
        here.train("-m", *words)

    assert in_process(story) == -signal.SIGKILL
    search(*words)
    assert [recorded(folder), values(*studies(folder))] == expected


def test_a_second_command_of_the_same_search_waits_and_trains_nothing_twice(terminal: Terminal) -> None:
    words = ("train.py", "-m", *TPE, "search.trials=12")
    first, second = terminal.start(*words), terminal.start(*words)
    outputs = [process.communicate(timeout=240)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert sum("Another command does the same search" in out for out in outputs) == 1
    assert len(recorded(terminal.folder)) == 12


# --- What is refused

LOSSES = "task.loss={_target_:torch.nn.CrossEntropyLoss},{_target_:torch.nn.MultiMarginLoss}"
BY_LOSS = "task.objective={name:val/loss,mode:min}"
REFUSED = {
    "search=tep search.trials=4": "search=tep does not exist; did you mean 'tpe'?",
    "search=tpe": "must have a budget",
    "search=tpe search.trials=0": "search.trials should be greater than or equal to 1",
    "search=tpe search.trials=2 search.seeds=3": "search.trials must be enough for one point",
    "search=tpe search.trials=4 validation_split=0": "nothing is held out",
    "search=tpe search.trials=4 optimizer.lr=0.1 batch_size=50": "must have something to search",
    "search=tpe search.trials=4 optimizer.lr=interval(1,0.1)": "from a smaller to a larger number",
    "search=tpe search.trials=4 optimizer.lr=tag(log,interval(0,1))": "must begin above 0",
    "search=tpe search.trials=4 optimizer.lr=interval(0.1,inf)": "an interval must end",
    "search=tpe search.trials=4 optimizer.lr=interval(-1,1)": "optimizer.lr should be greater than 0",
    "search=tpe search.trials=4 seed=int(interval(0,9))": "does not search for a seed",
    "search=tpe search.trials=4 search.seeds=2 seed=1,2": "seeds are listed, too",
    "search=tpe search.trials=4 threads=1,2": "must be the same for all trials of a search",
    "search=tpe,random search.trials=4": "search must be the same for all trials of a sweep",
    "search=nsga2 search.trials=4 pruner=halving": "pruner=halving judges by one objective, and search=nsga2 has two",
    "search=tpe search.trials=4 hydra/launcher=basic": "needs hydra/launcher=sweepstack",
    "search=tpe search.trials=4 hydra/sweeper=basic optimizer.lr=0.1,0.2": "needs hydra/sweeper=sweepstack",
    "search=tpe search.trials=4 batch_size=50,0": "batch_size should be greater than or equal to 1",
    "search=tpe search.trials=4 model.hiden=choice([1],[2])": "model.hiden",
    "search=tpe search.trials=4 epochs=interval(1,5)": "epochs takes whole numbers, and this has fractions, got "
    "'epochs=interval(1,5)'; write epochs=int(interval(1,5))",
    "search=tpe search.trials=4 batch_size=tag(log,interval(16,64))": "write batch_size=tag(log,int(interval(16,64)))",
    "search=tpe search.trials=4 epochs=range(1.0,3.0,0.5)": "epochs takes whole numbers",
    "search=tpe search.trials=4 early_stopping.patience=interval(1,5)": "early_stopping.patience takes whole numbers",
    "search=tpe search.trials=4 schedule=step schedule.every=interval(1,3)": "schedule.every takes whole numbers",
    "search=tpe search.trials=4 evaluate_every=interval(1,3)": "evaluate_every takes whole numbers",
    "optimizer.lr=interval(0.1,1)": "a grid has no intervals",
    "search=tpe search.epochs=3 epochs=5": "search.epochs must be enough for one point, which may have 5 epochs, got 3",
    "search=tpe search.epochs=26 epochs=1,9 search.seeds=3": "which may have 27 epochs, got 26",
    f"search=tpe search.trials=4 {LOSSES} {BY_LOSS}": "one objective that measures the same for all, got 'val/loss "
    "(min) of two kinds'; choose one, for example 'task.objective={name:val/accuracy,mode:max}'",
    f"search=tpe search.trials=4 {BY_LOSS},{{name:val/accuracy,mode:max}}": "'val/loss (min) and val/accuracy (max)'",
    f"pruner=threshold pruner.bound=0.5 optimizer.lr=0.1 {LOSSES} {BY_LOSS}": "pruner=threshold compares its trials by",
    "search=tpe search.trials=4 validation_split=0.1,0.2": "a search compares its trials on the same held-out items",
    "search=tpe search.trials=4 optimizer.lr=interval(0.1,0.1)": "give one value instead, or a wider interval",
    "search=tpe search.trials=4 optimizer.lr=choice()": "empty choice is not legal",
    "search=tpe search.trials=4 tracking=5": "tracking should have keys, got 5; for example tracking.sweep=my_sweep",
    "search=tpe search.trials=4 checkpoint=5 optimizer.lr=0.1,0.2": "checkpoint should have keys, got 5",
    "pruner=halving pruner.factor=1 optimizer.lr=0.1,0.2": "pruner.factor should be greater than or equal to 2, got 1",
    "search=tpe search.trials=4 search.width=0": "search.width should be greater than or equal to 1",
    "search=tpe search.trials=4.5": "search.trials should be a valid integer, got 4.5",
    "search=tpe search.minutes=nan": "search.minutes should be a finite number",
    "search=tpe search.trials=4 fold=int(interval(0,3)) folds=4": "does not search for a fold",
    "search=tpe search.trials=4 batch_size=tag(log,range(16,65,16))": "a range by the logarithm has whole numbers in "
    "steps of 1, got 'batch_size=tag(log,range(16,65,16))'; list the values, or leave out the steps: "
    "tag(log,int(interval(16,64)))",
}
WHEN = {
    "optimizer.momentum:'optimizer.lr=0.1'": "search.when is about searched keys, got 'optimizer.momentum'; did you",
    "optimizer.rl:'batch_size=50'": "search.when is about searched keys, got 'optimizer.rl'; did you mean 'opt",
    "batch_size:'optimizer.momentum=0.1'": "search.when.batch_size must name a searched key and one of its values",
    "batch_size:'optimizer.lr=0.3'": "search.when.batch_size must name a value of optimizer.lr, got '0.3'",
    "batch_size:'batch_size=50'": "the conditions of search.when must not go round in a circle, got 'batch_size'",
    "batch_size:'optimizer.lr=0.1',optimizer.lr:'batch_size=50'": "must not go round in a circle, got 'batch_size, op",
    "batch_size:'='": "search.when.batch_size must name a searched key and one of its values, as in KEY=VALUE, got '='",
    "batch_size:'epochs=2',optimizer.lr:'epochs=2'": "a search must have something to search",
}
MISTYPED = {
    "search.zip=5": "search.zip should be a list, got 5; for example search.zip=[[batch_size,optimizer.lr]]",
    "search.zip=batch_size": "search.zip should be a list, got 'batch_size'",
    "search.zip=[5]": "search.zip[0] should be a list, got 5",
    "search.zip=[[batch_size,optimizer.lr],5]": "search.zip[1] should be a list, got 5",
    "search.zip=[[batch_size,5]]": "search.zip[0][1] should be a valid string, got 5",
    "search.zip=[[]]": "search.zip should have groups of two or more keys",
    "search.zip=[[batch_size,optimizer.lr],[batch_size,optimizer.lr]]": "search.zip should name each key once",
    "search.when=5": "search.when should have keys, got 5; for example search.when={optimizer.momentum: optimizer=sgd}",
    "+search.when={batch_size:5}": "search.when should have conditions such as KEY=VALUE, got {'batch_size': 5}",
    "+search.when={batch_size:sgd}": "search.when should have conditions such as KEY=VALUE",
    "search.name=[tpe]": "search.name should be 'grid'",
    "search.name=null": "search.name should be 'grid'",
    "+search.trails=4": "search.trails is not a key of the config; did you mean 'trials'?",
    "search.seed=${nowhere}": "search.seed cannot be resolved",
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_mistake_is_one_line_before_anything_trains(folder: Path, words: str) -> None:
    before = sorted(path for path in folder.rglob("*") if path.suffix == ".db")
    typed = words.split()
    space = [] if "optimizer.lr" in words else [RATES]
    done = here.train("-m", "dataset=digits", "device=cpu", *space, *typed)
    assert done.code == 2
    assert REFUSED[words] in done.err
    assert done.err.count("\n") == (2 if "interval(-1,1)" in words else 1)  # of which two values are refused
    assert "Traceback" not in done.err
    assert not [*folder.glob("journal/mlflow.db/searches/*")]
    assert sorted(path for path in folder.rglob("*") if path.suffix == ".db") == before


@pytest.mark.parametrize("when", WHEN)
def test_a_condition_that_no_point_could_fulfil_is_one_line(folder: Path, when: str) -> None:
    space = ("optimizer.lr=0.1,0.2", "batch_size=50,100", "search=tpe", "search.trials=4", f"+search.when={{{when}}}")
    done = here.train("-m", "dataset=digits", "device=cpu", "epochs=1", *space)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert WHEN[when] in done.err


def test_losses_are_searched_if_something_else_selects(folder: Path) -> None:
    search(*SMALL, "optimizer.lr=0.1", LOSSES, "search=random", "search.trials=4", "engine=inline")
    (study,) = studies(folder)
    assert len({one.params["task.loss"] for one in study.trials}) == 2


def test_a_key_that_is_searched_twice_has_the_last_values(folder: Path) -> None:
    words = ("optimizer.lr=interval(0.1,0.2)", "search=qmc", "search.trials=2", "optimizer.lr=interval(0.5,0.6)")
    out = search("dataset=digits", *words, "launch.dry_run=true")
    assert "optimizer.lr: from 0.5 to 0.6" in out
    assert "0.2" not in out


OF_NO_EFFECT = {
    "-m search.trials=2 optimizer.lr=0.1,0.2": "search.trials has no effect on a grid, got 2; choose a search",
    "-m search=grid search.seeds=3 optimizer.lr=0.1,0.2": "search.seeds has no effect on a grid",
    "-m +search.when={batch_size:'optimizer.lr=0.1'} optimizer.lr=0.1,0.2": "search.when has no effect on a grid",
    "-m search=tpe search.trials=4 hydra.sweeper.max_batch_size=2 optimizer.lr=0.1,0.2": "max_batch_size has no effect",
    "-m search=tpe search.trials=4 hydra.sweeper.jobs=jobs.yaml": "hydra.sweeper.jobs lists what is trained",
    "-m search.zip=[[batch_size,seed]] hydra.sweeper.jobs=jobs.yaml": "hydra.sweeper.jobs lists what is trained",
    "-m hydra/sweeper=basic search.zip=[[batch_size,optimizer.lr]] optimizer.lr=0.1,0.2": "hydra/sweeper=sweepstack",
    "--config-dir conf_of_mine -m space=one,two": "cannot come from a file that is swept",
    "-m sweeps=tpe,lr": "cannot come from a file that is swept, got 'search=tpe'; choose that file without a comma",
    "search=tpe search.trials=4": "search=tpe needs a sweep; add -m, or choose search=grid",
    "search.patience=4": "search.patience has no effect on a grid",
    "search.zip=[[batch_size,optimizer.lr]]": "search.zip needs a sweep",
}


@pytest.mark.parametrize("words", OF_NO_EFFECT)
def test_a_key_of_a_search_that_nothing_would_obey_is_refused(folder: Path, words: str) -> None:
    (folder / "jobs.yaml").write_text("jobs: [[optimizer.lr=0.1], [optimizer.lr=0.2]]\n")
    (folder / "conf_of_mine" / "space").mkdir(parents=True)
    for name in ("one", "two"):
        text = "# @package _global_\nsearch: {name: random, trials: 2}\n"
        (folder / "conf_of_mine" / "space" / f"{name}.yaml").write_text(text)
    done = here.train(*words.replace(" space=", " +space=").split(), "dataset=digits", "device=cpu", "epochs=1")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert OF_NO_EFFECT[words] in done.err


def test_a_search_that_a_file_brings_can_be_replaced_by_a_grid_and_its_points_be_trained_again(folder: Path) -> None:
    assert "3 trials" in search("sweeps=tpe", *SMALL, "search=grid", "optimizer.lr=0.1,0.2,0.3", "batch_size=100")
    search("sweeps=tpe", *SMALL, "search.trials=1", "tracking.sweep=points", "batch_size=50", "engine=inline")
    shown = here.sweepstack("table", "--sweep", "points", "--format", "json")
    (row,) = json.loads(shown.out)
    command = here.sweepstack("repro", row["run_id"])
    assert command.code == 0, command.err
    words = command.out.split()
    assert "search=grid" in words
    again = here.train(*words[2:])
    assert again.code == 0, again.err


@pytest.mark.parametrize("kind", ["grid", "tpe"])
@pytest.mark.parametrize("words", MISTYPED)
def test_a_value_of_the_wrong_type_in_the_section_search_is_one_line(folder: Path, words: str, kind: str) -> None:
    budget = ["search.trials=4"] if kind == "tpe" else []
    name = [] if "search.name" in words else [f"search={kind}", *budget]
    done = here.train("-m", "dataset=digits", "device=cpu", "optimizer.lr=0.1,0.2", "batch_size=50,100", *name, words)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert MISTYPED[words] in done.err
    assert not [*folder.glob("mlruns*")]


def test_a_study_that_has_lost_a_line_is_one_line_and_notes_of_others_are_none(folder: Path) -> None:
    search(*TPE, "search.trials=3", "epochs=1")
    (file,) = folder.glob("journal/mlflow.db/searches/*.jsonl")
    storage = JournalStorage(JournalFileBackend(str(file)))
    storage.set_study_user_attr(storage.get_all_studies()[0]._study_id, "note", "as optuna-dashboard writes them")
    search(*TPE, "search.trials=4", "epochs=1")
    assert len(recorded(folder)) == 4
    lines = file.read_text().splitlines(keepends=True)
    for number in range(len(lines) - 1):
        if '"line":' not in lines[number]:
            continue
        left = lines[:number] + lines[number + 1 :]
        file.write_text("".join(left))
        after = next(place for place, line in enumerate(left[number:], number + 1) if '"line":' in line)
        with pytest.raises(StoreError, match=f"before line {after}, lines are missing or twice there"):
            StudyFile(file)
    done = here.train("-m", *TPE, "search.trials=4", "epochs=1")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "the study of a search must be readable" in done.err
    assert len(recorded(folder)) == 4


def test_spaces_that_differ_in_the_last_digit_have_studies_of_their_own(folder: Path) -> None:
    for end in ("0.10000001", "0.10000002"):
        search(
            *SMALL, f"optimizer.lr=interval(0.1,{end})", "search=qmc", "search.trials=2", "epochs=1", "engine=inline"
        )
    (file,) = folder.glob("journal/mlflow.db/searches/*.jsonl")
    assert len(JournalStorage(JournalFileBackend(str(file))).get_all_studies()) == 2


def test_a_study_that_cannot_be_read_is_one_line(folder: Path) -> None:
    search(*TPE, "search.trials=2")
    (file,) = folder.glob("journal/mlflow.db/searches/*.jsonl")
    file.write_text("no study\n")
    done = here.train("-m", *TPE, "search.trials=2")
    assert done.code == 2
    assert "the study of a search must be readable" in done.err
    assert done.err.count("\n") == 1
