"""The report of a search: how it went, what matters, who left when, and what was saved."""

import math
import random
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow.entities import Metric as Logged
from mlflow.entities import Param, RunTag

from sweepstack.cli.main import main
from sweepstack.results.reporting.params import DrawnRange, drawn_ranges, scale
from sweepstack.results.reporting.plots import search
from sweepstack.results.reporting.report import report
from sweepstack.results.reporting.searches.savings import Savings, savings
from sweepstack.results.reporting.searches.sections import rungs_section, settings_tried
from sweepstack.results.reporting.sections import About, ReportSection, about_sweep, make_sections
from sweepstack.results.reporting.text import at_the_edge
from sweepstack.results.tables.frame import as_frame
from sweepstack.search.importance import importance
from sweepstack.search.space import Distribution, Numbers, Options
from sweepstack.tracking.runs_as_rows import Row, jobs_tag, search_tag, space_tag
from sweepstack.tracking.store import Store

from ..terminal import Terminal, new_store
from .test_report import Page
from .trials import ACCURACY

LOG_RATE = '{"optimizer.lr": [0.0001, 1.0, true]}'
STACKED = "stacked, 4 trajectories wide, 1 thread (10 us a step and trial stacked, 40 us alone)"
ALONE = "by the plain trainer, 1 thread (alone)"


def row(number: int, params: dict[str, Any], value: float | None, state: str = "FINISHED", **known: Any) -> Row:
    metrics = {} if value is None else {"val/accuracy": value, "train_seconds_share": 1.0}
    texts = {"epochs": "9", **{name: str(one) for name, one in params.items()}}
    place = (f"id{number:04}", f"run {number}", "1", "sweep", state, known.pop("reason", ""), "", 1000 + number)
    known = {"search": "tpe", "space": LOG_RATE, "number": number, "trajectory": f"t/{number}", **known}
    return Row(*place, texts, metrics, **{"trained": ALONE, **known})


def pruned(number: int, params: dict[str, Any], values: dict[float, float], **known: Any) -> Row:
    at, value = max(values.items())
    return row(number, params, value, "PRUNED", reason=f"pruned at epoch {at:g} by halving", rungs=values, **known)


def sections(rows: Sequence[Row], store: Store) -> dict[str, ReportSection]:
    frame = as_frame(rows)
    return {one.name: one for one in make_sections(about_sweep(store, frame, ACCURACY, rows), lambda _: None)}


# What was saved


def by_name(found: Savings | None) -> dict[str, float]:
    assert found is not None
    return {one.name: one.ratio for one in found.factors}


def test_each_factor_is_measured_by_itself_and_together_they_are_what_a_plain_loop_takes() -> None:
    rows = [
        row(0, {"lr": 1, "epochs": 3}, 0.5, jobs=2, trajectory="s/0", trained=STACKED),
        row(1, {"lr": 1, "epochs": 9}, 0.6, trajectory="s/0", trained=STACKED),
        pruned(2, {"lr": 2, "epochs": 9}, {1: 0.1, 3: 0.2}, trajectory="s/1", trained=STACKED),
        row(3, {"lr": 3, "epochs": 9}, 0.4, reused=True),
        row(4, {"lr": 4, "epochs": 9}, None, "FAILED"),
    ]
    found = savings(rows)
    # 3 * 2 + 9 + 9 + 9 are asked for, 3 + 9 + 9 trained here, in trainings of 9 and 9, which took 9 and 3.
    assert by_name(found) == {"duplicates": 33 / 21, "prefixes": 21 / 18, "width": 4.0, "pruning": 18 / 12}
    assert found is not None
    assert f"about {33 / 12 * 4:.3g} times as long" in found.note
    assert "1 trial that did not finish is left out" in found.note


def test_what_a_record_does_not_hold_is_not_known() -> None:
    rows = [row(n, {"lr": n, "epochs": n}, 0.5, trajectory="", trained="") for n in (1, 2)]
    found = savings(rows)
    ratios = by_name(found)
    assert (ratios["duplicates"], ratios["pruning"]) == (1, 1)
    assert math.isnan(ratios["prefixes"])
    assert math.isnan(ratios["width"])
    assert found is not None
    assert "of what is known" in found.note
    assert savings([row(0, {"lr": 1}, None, "FAILED")]) is None
    nothing = savings([row(0, {"lr": 1}, 0.5, reused=True)])
    assert nothing is not None
    assert (nothing.factors, "Nothing was trained" in nothing.note) == ((), True)


def test_whether_jobs_were_alike_is_said_of_a_launch_and_not_of_a_search() -> None:
    how = []
    for sampler in ("", "tpe"):
        found = savings([row(n, {"lr": n}, 0.5, search=sampler) for n in (0, 1)])
        assert found is not None
        how.append(found.factors[0].how)
    assert how[0].endswith("No other sweep has trained any of them, and no two jobs of a launch were alike.")
    assert how[1].endswith("No other sweep has trained any of them. Jobs that were alike are not counted.")


def test_a_real_sweep_knows_its_duplicates_and_prefixes(terminal: Terminal) -> None:
    words = ("train.py", "-m", "dataset=digits", "threads=1", "epochs=1,2,4", "launch.stack=force")
    assert terminal.type(*words, "optimizer.lr=0.1,0.2,0.20", "tracking.sweep=first").returncode == 0
    assert terminal.type(*words, "optimizer.lr=0.2,0.4", "tracking.sweep=second").returncode == 0
    first, second = (savings(terminal.store.rows(sweep)) for sweep in ("first", "second"))
    ratios = by_name(first)
    assert (ratios["duplicates"], ratios["prefixes"], ratios["pruning"]) == (21 / 14, 14 / 8, 1)
    assert ratios["width"] > 0
    ratios = by_name(second)
    assert (ratios["duplicates"], ratios["prefixes"], ratios["pruning"]) == (14 / 7, 7 / 4, 1)
    page = Page(report("second", store=terminal.store).html)
    assert [one["saved"] for one in page.rows("saved")] == ["by duplicates", "by prefixes", "by width", "by pruning"]
    assert page.rows("saved")[0]["factor"] == "2 ×"
    assert not any("how the search went" in text for text in page.texts["text"])


# A real search


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Terminal:
    terminal = Terminal(tmp_path_factory.mktemp("searched"))
    new_store(terminal.folder, empty_database)
    space = ("optimizer.lr=tag(log,interval(1e-4,1))", "batch_size=50,100", "epochs=9", "pruner=halving")
    command = ("train.py", "-m", "dataset=digits", "threads=1", "search=random", "search.trials=24", *space)
    done = terminal.type(*command, "engine=inline", "launch.stack=force", "tracking.sweep=found")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^best val/accuracy 0\.\d+ \(.*\); 24 trials: \d+ finished, \d+ pruned$", done.stdout, re.M)
    return terminal


def test_a_real_search_is_told_by_what_the_store_holds(searched: Terminal) -> None:
    rows = searched.store.rows("found")
    states = [one.state for one in rows]
    early, whole = states.count("PRUNED"), states.count("FINISHED")
    assert early + whole == len(rows) == 24
    made = report("found", store=searched.store)
    assert {f"plots/{name}.svg" for name in ("history", "hyperparameters", "importance", "rungs")} <= {*made.files}
    page = Page(made.html)
    captions = page.texts["figcaption"]
    assert any(f"24 trials that random asked for: {whole} finished, {early} pruned." in text for text in captions)
    assert any(text.startswith("PED-ANOVA") for text in captions)
    at_rungs = {epochs: sum(epochs in one.rungs for one in rows) for epochs in (1, 3)}
    left = {epochs: sum(one.state == "PRUNED" and max(one.rungs) == epochs for one in rows) for epochs in (1, 3)}
    for epochs, had in at_rungs.items():
        told = f"At epoch {epochs}, {had - left[epochs]} of {had} went on."
        assert any(told in text for text in captions), told
    trained = sum(max(one.rungs) if one.state == "PRUNED" else 9 for one in rows)
    assert page.rows("saved")[3]["factor"] == f"{24 * 9 / trained:.3g} ×"
    assert {one.space for one in rows} == {LOG_RATE}
    assert sorted(one.number for one in rows if one.number is not None) == [*range(24)]
    assert report("found", store=searched.store).html == made.html
    labels = [value for tag, key, value in page.attributes if (tag, key) == ("div", "aria-label")]
    assert {"Which trials left at which rung", "Validation accuracy: how the search went"} <= {*labels}


def test_without_optuna_the_report_says_what_it_lacks(searched: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    page = Page(report("found", store=searched.store).html)
    assert not any(text.startswith("PED-ANOVA") for text in page.texts["figcaption"])
    assert any("sweepstack[search]" in text for part in ("p", "figcaption") for text in page.texts[part])


def test_the_table_says_at_which_rung_a_trial_was_pruned_and_why(searched: Terminal) -> None:
    told = CliRunner().invoke(main, ["table", "--sweep", "found", "--store", searched.uri]).stdout
    for one in searched.store.rows("found"):
        if one.state == "PRUNED":
            assert re.search(rf"{one.params['lr']} .* PRUNED +pruned at epoch [13] by halving: \d+\w\w of \d+", told)


# Searches that are meagre, odd or large


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Store:
    return new_store(tmp_path_factory.mktemp("odd"), empty_database)


def keep(store: Store, sweep: str, rows: Sequence[Row]) -> None:
    """Records rows as runs."""
    experiment = store.experiment_id("odd")
    with store.transaction():
        for one in rows:
            own = {"sweepstack.version": "0.0.1", "sweep": sweep, "sweepstack.trajectory": one.trajectory}
            own |= {"trained": one.trained, jobs_tag(sweep): f"{one.number} {one.jobs}"}
            own |= {search_tag(sweep): one.search, space_tag(sweep): one.space} if one.search else {}
            own |= {"reason": one.reason, "sweepstack.rungs": " ".join(f"{a}:{b}" for a, b in one.rungs.items())}
            own |= {"sweepstack.pruned": one.reason} if one.state == "PRUNED" else {}
            run = store.client.create_run(experiment, one.started, own, one.name).info.run_id
            metrics = [Logged(key, value, 1, 1) for key, value in one.metrics.items()]
            params = [Param(key, value) for key, value in one.params.items()]
            store.client.log_batch(run, metrics, params, [RunTag("a", "b")])
            store.client.set_terminated(run, "FINISHED" if one.state == "PRUNED" else one.state)


NAN = float("nan")
ODD = {
    "one": [row(0, {"lr": 0.1}, 0.5)],
    "diverged": [row(9, {"lr": 0.5}, None, "FAILED"), pruned(1, {"lr": 0.1}, {1: 0.1})],
    "failed": [row(n, {"lr": 0.1 * n}, None, "FAILED") for n in range(1, 4)],
    "survivor": [row(9, {"lr": 0.5}, 0.9, rungs={1: 0.5, 3: 0.7})]
    + [pruned(n, {"lr": 0.01 * (n + 1)}, {1: 0.1 * n}) for n in range(4)],
    "nan": [row(n, {"lr": 0.01 * (n + 1)}, NAN if n % 2 else 0.1 * n) for n in range(6)],
    "two": [row(n, {"lr": 0.01 * (n + 1), "epochs": n + 1}, 0.1 * n, search="nsga2") for n in range(6)],
    "seeds": [row(3 * n + s, {"lr": 0.01 * (n + 1), "seed": s}, 0.1 * n + s / 90) for n in range(4) for s in range(3)],
    "condition": [
        row(n, {"optimizer": "sgd", "lr": 0.01 * (n + 1), "momentum": 0.03 * n}
            if n % 2 else {"optimizer": "adam", "lr": 0.01 * (n + 1)}, 0.02 * n)
        for n in range(30)
    ],
}  # fmt: skip
SAID = {
    "one": "1 trial that tpe asked for: 1 finished.",
    "diverged": "1 trial that finished or were pruned reached a rung. At epoch 1, 0 of 1 went on.",
    "failed": "There is no answer: ",
    "survivor": "5 trials that finished or were pruned reached a rung. At epoch 1, 1 of 5 went on.",
    "nan": "6 trials that tpe asked for: 3 finished, 3 without a value.",
    "two": "The second objective, the epochs of a point, is not drawn.",
    "seeds": "4 settings that tpe asked for: 4 finished.",
    "condition": "A trial without a hyperparameter is not in its panel.",
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_search_has_a_report_too(store: Store, name: str) -> None:
    keep(store, name, ODD[name])
    page = Page(report(name, store=store).html)
    assert any(SAID[name] in text for part in ("p", "figcaption") for text in page.texts.get(part, []))
    assert len(page.rows("trials")) == len(ODD[name])


def test_the_report_of_a_search_of_a_thousand_trials_is_not_slow(store: Store) -> None:
    draw = random.Random(0)
    rows = []
    for number in range(1000):
        params = {"lr": round(10 ** draw.uniform(-4, 0), 8), "batch_size": draw.choice([50, 100])}
        value = draw.random()
        if number % 3:
            rows.append(pruned(number, params, {1: value}))
        else:
            rows.append(row(number, params, value, rungs={1: value, 3: value}))
    keep(store, "many", rows)
    keep(store, "many_as_grid", [replace(one, search="", space="") for one in rows])
    began = time.process_time()
    report("many_as_grid", store=store)
    as_grid = time.process_time() - began
    began = time.process_time()
    made = report("many", store=store)
    assert time.process_time() - began < 2 * as_grid
    page = Page(made.html)
    assert any("1000 trials that tpe asked for: 334 finished, 666 pruned." in one for one in page.texts["figcaption"])


# The figures


def test_the_best_so_far_follows_the_order_in_which_settings_were_asked_for() -> None:
    rows = [row(n, {"lr": 0.1 + n}, value) for n, value in enumerate((0.5, 0.3, 0.7, NAN, 0.6))]
    rows += [pruned(5, {"lr": 9}, {1: 0.9}), row(6, {"lr": 8}, None, "RUNNING")]
    known = {one.run_id: replace(one, started=-one.started) for one in rows}
    tried = settings_tried(as_frame(rows[::-1]), known, ACCURACY)
    unnumbered = {key: replace(one, number=None) for key, one in known.items()}
    assert settings_tried(as_frame(rows[::-1]), unnumbered, ACCURACY) == tried[::-1]
    assert [one.state for one in tried] == [*["FINISHED"] * 5, "PRUNED", "RUNNING"]
    drawn = search.history(tried, ACCURACY, "trial", {tried[2].trials[0]})
    (line,) = [one for one in drawn.axes[0].lines if one.get_label() == "best so far"]
    assert np.asarray(line.get_ydata()).tolist() == [0.5, 0.5, 0.7, 0.7, 0.7]
    assert np.asarray(line.get_xdata()).tolist()[:4] == [1, 2, 3, 5]  # the pruned one is no best so far
    (ring,) = [
        one for one in drawn.axes[0].lines if one.get_marker() == "o" and one.get_gid() and one.get_markersize() == 9
    ]
    assert np.asarray(ring.get_xdata()).tolist() == [3]


def test_a_search_keeps_its_history_when_a_grid_adds_seeds_and_settings() -> None:
    rows = [row(n, {"lr": 0.1 + n, "seed": 0}, 0.1 * n) for n in range(3)]
    added = [row(n + 10, {"lr": 0.1 + n, "seed": 1}, 0.1 * n, search="", space="") for n in (1, 2)]
    added += [row(20, {"lr": 9.1, "seed": 0}, 0.9, search="", space="")]
    rows += [replace(one, number=number) for number, one in enumerate(added)]
    known = {one.run_id: one for one in rows}
    tried = settings_tried(as_frame(rows), known, ACCURACY)
    assert [(len(one.trials), round(one.value, 3)) for one in tried] == [(1, 0.0), (2, 0.1), (2, 0.2)]
    about = About(Store("sqlite:///nowhere.db"), as_frame(rows), ["lr"], ACCURACY, None, "", None, known)
    assert (about.sampler, about.ranges) == ("tpe", {"lr": DrawnRange(0.0001, 1.0, log=True)})
    later = {key: replace(one, number=0) if one.search else one for key, one in known.items()}  # a second search
    assert settings_tried(as_frame(rows), later, ACCURACY) == tried


def test_a_pruned_trial_without_a_value_at_its_rung_has_left() -> None:
    rows = [pruned(0, {"lr": 1}, {1: NAN}), pruned(1, {"lr": 2}, {1: 0.1}), row(2, {"lr": 3}, 0.9, rungs={1: 0.5})]
    frame = as_frame(rows)
    rungs = {int(str(at)): rows[int(run_id[2:])].rungs for at, run_id in frame["run_id"].items()}
    found = search.read_rungs(frame, rungs, ACCURACY)
    assert found is not None
    assert (found.at, found.left, found.go_on) == ((1,), (2,), (1,))
    search.rungs_picture(found, ACCURACY, set())


def test_a_pruner_that_compares_no_trials_has_its_rungs_at_epochs() -> None:
    rows = [
        row(0, {"lr": 1, "epochs": 3}, 0.9, rungs={1: 0.8, 2: 0.9}),
        row(1, {"lr": 2, "epochs": 9}, 0.9, rungs={1: 0.8, 5: 0.9}),
        pruned(2, {"lr": 3, "epochs": 9}, {1: 0.7, 5: 0.2}),
    ]
    rows[2] = replace(rows[2], reason="pruned at epoch 5 by threshold: val/accuracy is 0.2, the bound is 0.5")
    frame = as_frame(rows)
    rungs = {int(str(at)): rows[int(run_id[2:])].rungs for at, run_id in frame["run_id"].items()}
    found = search.read_rungs(frame, rungs, ACCURACY)
    assert found is not None
    assert (found.unit, found.at, found.judged, found.left, found.go_on) == ("epochs", (5,), (2,), (1,), (1,))


def test_rungs_count_who_left_and_who_goes_on() -> None:
    rows = [pruned(n, {"lr": n}, {1: 0.1 * n}) for n in range(6)]
    rows += [pruned(6, {"lr": 6}, {1: 0.6, 3: 0.5}), row(7, {"lr": 7}, 0.9, rungs={1: 0.7, 3: 0.8})]
    frame = as_frame(rows)
    rungs = {int(str(at)): rows[int(run_id[2:])].rungs for at, run_id in frame["run_id"].items()}
    found = search.read_rungs(frame, rungs, ACCURACY)
    assert found is not None
    assert (found.unit, found.at, found.left, found.go_on) == ("epochs", (1, 3), (6, 1), (2, 1))
    (best,) = [path for path in found.paths.values() if len(path) == 3]
    assert best.tolist() == [[1, 0.7], [3, 0.8], [9, 0.9]]
    above, below = search.rungs_picture(found, ACCURACY, set()).axes
    assert len([one for one in above.lines if one.get_gid()]) == 8
    assert [text.get_text().strip() for text in below.texts] == ["8", "2", "1"]


def test_trials_of_different_lengths_meet_at_parts_of_their_own_epochs() -> None:
    rows = [
        pruned(0, {"lr": 1, "epochs": 3}, {1: 0.1}),
        pruned(1, {"lr": 2, "epochs": 9}, {3: 0.2}),
        row(2, {"lr": 3, "epochs": 9}, 0.9, rungs={3: 0.5}),
    ]
    frame = as_frame(rows)
    rungs = {int(str(at)): rows[int(run_id[2:])].rungs for at, run_id in frame["run_id"].items()}
    found = search.read_rungs(frame, rungs, ACCURACY)
    assert found is not None
    assert (found.at, found.judged, found.left, found.go_on) == ((33.333,), (3,), (2,), (1,))
    assert "percent" in found.unit
    rows += [pruned(3, {"lr": 4, "epochs": 9}, {1: 0.1})]  # at a rung that is before the first epoch of a short one
    frame = as_frame(rows)
    caption, _ = rungs_section(frame, {one.run_id: one for one in rows}, ACCURACY, frozenset()) or ("", None)
    assert "At 11.1 % of its epochs, 0 of 1 went on. At 33.3 % of its epochs, 1 of 3 went on." in caption


def test_an_axis_is_logarithmic_where_the_distribution_is() -> None:
    column = pd.Series([0.001, 0.5, 0.9], name="dropout")
    assert scale("dropout", column).kind == "log"  # it spans two decades
    axis = scale("dropout", column, DrawnRange(0.0, 1.0, log=False))
    assert (axis.kind, axis.limits, axis.ticks) == ("linear", (0.0, 1.0), [])
    assert scale("epochs", pd.Series([3, 9, 6, 3]), DrawnRange(3.0, 9.0, log=False)).ticks == [3, 6, 9]
    rows = [row(n, {"lr": rate}, 0.5) for n, rate in enumerate((0.1, 0.2))]
    assert drawn_ranges(rows, as_frame(rows)) == {"lr": DrawnRange(0.0001, 1.0, log=True)}
    for text in ("", "no JSON", "[1]", '{"optimizer.lr": 3}', '{"optimizer.lr": ["a", "b", true]}'):
        assert drawn_ranges([row(0, {"lr": 0.1}, 0.5, space=text)], as_frame(rows)) == {}


def test_the_best_value_at_the_end_of_its_range_is_told() -> None:
    rows = [row(n, {"lr": rate}, value) for n, (rate, value) in enumerate(((0.9, 0.9), (0.1, 0.5), (0.01, 0.1)))]
    frame = as_frame(rows)
    ranges = {"lr": DrawnRange(0.0001, 1.0, log=True)}
    assert "near the upper end of its range, 0.9 in 0.0001 to 1" in at_the_edge(frame, ["lr"], frame.iloc[0], ranges)[0]
    assert at_the_edge(frame, ["lr"], frame.iloc[1], ranges) == []


# Importance


def test_importance_of_a_search_finds_the_param_that_matters() -> None:
    draw = random.Random(1)
    points: list[dict[str, int | float | str]] = [
        {"lr": 10 ** draw.uniform(-4, 0), "batch_size": draw.choice(["50", "100"]), "width": draw.randint(1, 64)}
        for _ in range(100)
    ]
    points.sort(key=lambda one: abs(math.log10(float(one["lr"])) + 1))
    space: dict[str, Distribution] = {
        "lr": Numbers(1e-4, 1.0, log=True),
        "batch_size": Options(("100", "50")),
        "width": Numbers(1, 64),
    }
    found = importance(points, space, 10)
    assert found["lr"][0] > 3 * found["lr"][1]
    assert found["batch_size"][0] < found["lr"][0]
    assert found["width"][0] < found["lr"][0]
    assert importance(points, space, 10) == found


def test_importance_leaves_out_what_only_settings_without_a_value_have(store: Store) -> None:
    rows = [row(n, {"lr": 10 ** (-n / 10), "batch_size": (50, 100)[n % 2]}, 1 - n / 30) for n in range(25)]
    rows += [row(n, {"lr": 0.5, "batch_size": 50, "momentum": 0.1 * (n - 24)}, None, "FAILED") for n in range(25, 30)]
    keep(store, "momentum_fails", rows)
    made = sections(store.rows("momentum_fails"), store)
    assert "is not in its panel" not in made["hyperparameters"].caption  # but at "not set"
    found = made["importance"]
    assert found.figure is not None
    assert {label.get_text() for label in found.figure.axes[0].get_yticklabels()} == {"learning rate", "batch size"}


def test_what_does_not_matter_is_above_the_mark_of_chance_in_5_of_100_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    from optuna.importance import PedAnovaImportanceEvaluator

    by_chance: list[float] = []

    def evaluate(*_: Any, **__: Any) -> dict[str, float]:
        by_chance.append(float(len(by_chance)))
        return {"lr": by_chance[-1]}

    monkeypatch.setattr(PedAnovaImportanceEvaluator, "evaluate", evaluate)
    ((_, mark),) = importance([{"lr": 0.1}, {"lr": 0.2}], {"lr": Numbers(0.0, 1.0)}, 1).values()
    above = sum(one > mark for one in by_chance)
    assert 0 < (above + 1) / len(by_chance) <= 0.05  # of equally likely ranks among all of them


def test_an_older_optuna_finds_the_same_importance(monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna.importance

    class Older(optuna.importance.PedAnovaImportanceEvaluator):
        """As it was before Optuna 4.7."""

        def __init__(self, *, baseline_quantile: float = 0.1, evaluate_on_local: bool = True) -> None:
            super().__init__(target_quantile=baseline_quantile, evaluate_on_local=evaluate_on_local)

        def evaluate(self, *args: Any, **keywords: Any) -> dict[str, float]:
            return {key: value for key, value in super().evaluate(*args, **keywords).items() if key != "model"}

    points: list[dict[str, int | float | str]] = [{"lr": 0.01 * number, "model": "mlp"} for number in range(20)]
    space: dict[str, Distribution] = {"lr": Numbers(0.0, 1.0), "model": Options(("mlp",))}  # always the same model
    found = importance(points, space, 5)
    monkeypatch.setattr(optuna.importance, "PedAnovaImportanceEvaluator", Older)
    assert importance(points, space, 5) == found


def test_as_many_points_are_the_best_as_is_said() -> None:
    points: list[dict[str, int | float | str]] = [  # 15 / 157 * 157 is more than 15
        {"letter": "a" if rank < 15 else "b", "digit": str(rank % 2)} for rank in range(157)
    ]
    space: dict[str, Distribution] = {"letter": Options(("a", "b")), "digit": Options(("0", "1"))}
    assert importance(points, space, 15)["letter"] != importance(points, space, 16)["letter"]


def test_importance_knows_pruned_settings_and_those_without_a_param(store: Store) -> None:
    rows: list[Row] = []
    for number in range(60):
        rate = 10 ** (-4 + 4 * number / 59)
        params = {"lr": round(rate, 8), "batch_size": (50, 100)[number % 2], "momentum": number / 60}
        if number % 3:
            del params["momentum"]
        rows.append(row(number, params, rate) if rate > 0.1 else pruned(number, params, {1: rate}))
    keep(store, "matters", rows)
    found = sections(store.rows("matters"), store)["importance"]
    assert found.figure is not None
    names = [label.get_text() for label in found.figure.axes[0].get_yticklabels()]
    assert (names[0], {*names}) == ("learning rate", {"learning rate", "batch size", "momentum"})
    assert "in all 60" in found.caption
    assert "A pruned setting counts as worse" in found.caption
    few = sections(store.rows("matters")[-8:], store)["importance"]
    assert (few.figure, "8 settings with a result are too few" in few.caption) == (None, True)
