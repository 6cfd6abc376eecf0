"""The plots show the figures of the table: looked at as data, not as pixels."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from sweepstack.metrics import Metric
from sweepstack.results.reporting.importance import REPEATS, Importance, _error_lost, importance, importance_bars
from sweepstack.results.reporting.mistakes import Answers, confusion, confusion_matrix, surest_mistakes, wrong_images
from sweepstack.results.reporting.params import scale, varied_params
from sweepstack.results.reporting.plots.charts import by_param, learning_curves, parallel_coordinates
from sweepstack.results.reporting.plots.heat_maps import heat_maps, pairs
from sweepstack.results.reporting.plots.pareto import pareto, time_and_objective
from sweepstack.results.reporting.plots.style import ORANGE, SINGLE, gid, png, svg, words
from sweepstack.results.reporting.predicted import Predicted
from sweepstack.results.reporting.recall import recall_bars, recall_of_classes, recall_of_labels
from sweepstack.results.reporting.residuals import largest_residuals, predicted_and_true, residual_bars
from sweepstack.results.selection.statistics import wilson
from sweepstack.results.tables.frame import as_frame
from sweepstack.tracking.runs_as_rows import Row

from .trials import ACCURACY

LRS, SIZES = (0.001, 0.01, 0.1), (50, 100)


def row(number, params, metrics, state="FINISHED"):
    params = {key: str(value) for key, value in params.items()}
    return Row(f"id{number:05}", f"run {number}", "1", "sweep", state, "", "", 1000 + number, params, metrics)


def grid(figure_of, seeds=2):
    """A sweep over learning rate, batch size and seed, with these figures."""
    rows = []
    for number, (lr, size, seed) in enumerate(itertools.product(LRS, SIZES, range(seeds))):
        metrics = {"val/accuracy": figure_of(lr, size, seed), "train_seconds": 1000 / size}
        rows.append(row(number, {"lr": lr, "batch_size": size, "seed": seed}, metrics))
    return as_frame(rows)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return grid(lambda lr, size, seed: 0.7 + 0.1 * math.log10(lr * 1000) + size / 10_000 + seed / 1000)


def marks(axes):
    """What is drawn for single trials: by their places in the table."""
    return {line.get_gid(): line for line in axes.lines if line.get_gid()}


def test_learning_curves_hold_every_history_and_the_best_is_in_front(frame: pd.DataFrame) -> None:
    history = pd.DataFrame(
        [(run_id, step, place / 100 + step / 10) for place, run_id in enumerate(frame["run_id"]) for step in (1, 2, 3)],
        columns=["run_id", "step", "value"],
    )
    (axes,) = learning_curves(frame, history, ACCURACY, [0, 1], "lr=0.1").axes
    drawn = marks(axes)
    assert len(drawn) == len(frame)
    for place in frame.index:
        line = drawn[gid([place])]
        assert line.get_xdata().tolist() == [1, 2, 3]
        assert line.get_ydata().tolist() == pytest.approx([place / 100 + step / 10 for step in (1, 2, 3)])
        assert (to_hex(line.get_color()).upper() == ORANGE) == (place in (0, 1))
    assert drawn[gid([0])].get_zorder() > drawn[gid([5])].get_zorder()
    assert axes.get_ylabel() == "validation accuracy"


def test_others_that_may_be_the_best_are_drawn_in_another_form(frame: pd.DataFrame) -> None:
    best, tied, other = 0, 2, 6
    names, groups = ["lr", "batch_size"], [[place] for place in frame.index]
    history = pd.DataFrame([(run_id, step, step / 9) for run_id in frame["run_id"] for step in (1, 2)])
    history.columns = pd.Index(["run_id", "step", "value"])
    lines = [
        learning_curves(frame, history, ACCURACY, [best], "lr=0.1", [tied]),
        parallel_coordinates(frame, names, ACCURACY, [best], [tied]),
    ]
    points = [
        by_param(frame, names, ACCURACY, [best], [tied]),
        time_and_objective(frame, groups, names, ACCURACY, [best], [tied]),
    ]
    for drawn in lines:
        styles = {place: marks(drawn.axes[0])[gid([place])].get_linestyle() for place in (best, tied, other)}
        assert styles == {best: "-", tied: "--", other: "-"}
    for drawn in points:
        forms = {place: marks(drawn.axes[0])[gid([place])].get_marker() for place in (best, tied, other)}
        assert forms == {best: "o", tied: "s", other: "o"}
    for drawn in [*lines, *points[:1]]:
        assert "may be the best, too" in [text.get_text() for legend in drawn.legends for text in legend.get_texts()]
    axes, _ = heat_maps(frame, [("lr", "batch_size")], ACCURACY, [best], [tied]).axes
    assert [patch.get_label() for patch in axes.patches if patch.get_label()].count("tied") == 1


def test_each_knob_has_a_panel_with_every_trial_and_the_means(frame: pd.DataFrame) -> None:
    names = varied_params(frame)
    assert names == ["lr", "batch_size"]
    rate, size = by_param(frame, names, ACCURACY, [0]).axes
    assert (rate.get_xscale(), size.get_xscale()) == ("log", "linear")
    assert [label.get_text() for label in rate.get_xticklabels()] == ["0.001", "0.01", "0.1"]
    for place, line in ((place, marks(rate)[gid([place])]) for place in frame.index):
        assert (line.get_xdata(), line.get_ydata()) == (frame["lr"][place], frame["val/accuracy"][place])
    (bars,) = [one for one in rate.containers if one.get_label() == "_means"]
    means = frame.groupby("lr")["val/accuracy"]
    assert bars.lines[0].get_xdata().tolist() == pytest.approx(list(LRS))  # type: ignore[attr-defined]
    assert bars.lines[0].get_ydata().tolist() == pytest.approx(means.mean().tolist())  # type: ignore[attr-defined]
    reach = [abs(top - bottom) / 2 for (_, bottom), (_, top) in bars.lines[2][0].get_segments()]  # type: ignore[attr-defined]
    assert reach == pytest.approx(means.std().tolist())


def test_text_and_missing_values_are_categories_in_their_order() -> None:
    column = pd.Series([(64,), (8,), None, (64,)], name="model.hidden")
    axis = scale("model.hidden", column)
    assert (axis.kind, axis.labels) == ("category", ["[8]", "[64]", "not set"])
    assert axis.at.tolist() == [1, 0, 2, 1]
    decay = scale("weight_decay", pd.Series([0.0, 1e-4, 1e-2]))
    assert (decay.kind, decay.labels) == ("category", ["0", "0.0001", "0.01"])  # zero has no logarithm
    assert scale("width", pd.Series([1, 10, 100])).kind == "log"
    assert scale("epochs", pd.Series([1, 10, 99])).kind == "linear"


def test_what_follows_from_the_choice_of_a_group_is_no_knob() -> None:
    rows = [
        row(0, {"optimizer": "sgd", "momentum": 0.9, "lr": 0.1}, {"val/accuracy": 0.5}),
        row(1, {"optimizer": "adam", "betas": "[0.9, 0.999]", "lr": 0.1}, {"val/accuracy": 0.6}),
        row(2, {"optimizer": "adam", "betas": "[0.9, 0.999]", "lr": 0.2}, {"val/accuracy": 0.7}),
    ]
    assert varied_params(as_frame(rows)) == ["optimizer", "lr"]
    both = [*rows, row(3, {"optimizer": "sgd", "momentum": 0.0, "lr": 0.1}, {"val/accuracy": 0.5})]
    assert varied_params(as_frame(both)) == ["optimizer", "lr", "momentum"]


def test_a_far_out_trial_is_a_triangle_at_the_edge_and_does_not_flatten_the_others() -> None:
    frame = grid(lambda lr, size, seed: 0.1 if (lr, size, seed) == (0.1, 100, 1) else 0.9 + lr / 10 + seed / 1000)
    rate, _ = by_param(frame, ["lr", "batch_size"], ACCURACY, [0]).axes
    low, _ = rate.get_ylim()
    assert low > 0.8
    (outside,) = [line for line in marks(rate).values() if line.get_marker() == "v"]
    assert outside.get_ydata().tolist() == [low]
    assert outside.get_gid() == gid([len(frame) - 1])


def test_heat_maps_show_means_and_leave_out_what_was_not_tried() -> None:
    frame = grid(lambda lr, size, seed: lr + size / 1000 + seed / 100)
    frame = frame[(frame["lr"] != 0.1) | (frame["batch_size"] != 50)].reset_index(drop=True)
    frame.attrs["vary"] = 3
    assert pairs(frame, ["batch_size", "lr"]) == [("lr", "batch_size")]
    axes, _ = heat_maps(frame, [("lr", "batch_size")], ACCURACY, [0]).axes
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {
        (column, line): "–" if (lr, size) == (0.1, 50) else f"{lr + size / 1000 + 0.005:.3f}"
        for (line, lr), (column, size) in itertools.product(enumerate(LRS), enumerate(SIZES))
    }
    assert sum(patch.get_label() == "best" for patch in axes.patches) == 1
    cells = [set(patch.get_gid().removeprefix("trial-").split("-")) for patch in axes.patches if patch.get_gid()]
    assert sorted(itertools.chain.from_iterable(cells), key=int) == [str(place) for place in frame.index]


def test_parallel_coordinates_put_each_trial_at_its_values(frame: pd.DataFrame) -> None:
    (axes,) = parallel_coordinates(frame, ["lr", "batch_size"], ACCURACY, [0]).axes
    drawn = marks(axes)
    best, worst = drawn[gid([0])].get_ydata(), drawn[gid([len(frame) - 1])].get_ydata()
    assert best.tolist() == pytest.approx([1, 1, 1])
    assert worst.tolist() == pytest.approx([0, 0, 0])
    middle = frame.index[(frame["lr"] == 0.01) & (frame["batch_size"] == 50)][0]
    assert drawn[gid([middle])].get_ydata()[:2].tolist() == pytest.approx([0.5, 0])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30), st.booleans())
def test_the_pareto_front_is_what_nothing_is_faster_and_better_than(points, up) -> None:
    seconds, values = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    front = {(x, y) for (x, y), on in zip(points, pareto(seconds, values, up), strict=True) if on}
    better = (lambda one, other: one >= other) if up else (lambda one, other: one <= other)
    expected = {(x, y) for x, y in points if not any(a <= x and better(b, y) and (a, b) != (x, y) for a, b in points)}
    assert front == expected


def test_time_is_drawn_for_settings_with_the_means_of_their_trials(frame: pd.DataFrame) -> None:
    groups = [list(places) for places in frame.groupby(["lr", "batch_size"]).groups.values()]
    (axes,) = time_and_objective(frame, groups, ["lr", "batch_size"], ACCURACY, [0, 1]).axes
    drawn = marks(axes)
    for group in groups:
        line = drawn[gid(group)]
        assert line.get_xdata() == pytest.approx(frame["train_seconds"][group].mean())
        assert line.get_ydata() == pytest.approx(frame["val/accuracy"][group].mean())
    (front,) = [line for line in axes.lines if line.get_label() == "_front"]
    assert front.get_xdata().tolist() == [10.0]  # type: ignore[union-attr] # the largest batches are the fastest and, here, the best


def test_importance_finds_the_knob_that_matters_and_is_the_same_each_time() -> None:
    figures = iter(np.random.default_rng(0).normal(0, 0.001, 1000))
    rows = [
        row(number, {"lr": lr, "batch_size": size, "seed": seed}, {"val/accuracy": lr + next(figures)})
        for number, (lr, size, seed) in enumerate(itertools.product((0.1, 0.2, 0.3, 0.4), (1, 2, 3), (0, 1)))
    ]
    found = importance(as_frame(rows), ["batch_size", "lr"], "val/accuracy")
    assert isinstance(found, Importance)
    assert found.params == ["lr", "batch_size"]
    assert found.lost[0] > 0.5 > 0.1 > abs(found.lost[1])
    assert found.explained > 0.5
    assert importance(as_frame(rows[::-1]), ["batch_size", "lr"], "val/accuracy") == found
    (axes,) = importance_bars(found, "val/accuracy").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["learning rate", "batch size"]
    assert [bar.get_width() for bar in axes.patches] == found.lost  # type: ignore[attr-defined]


def test_importance_is_the_permutation_importance_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    inputs, more = random.random((40, 3)), random.random((17, 3))
    forest = RandomForestRegressor(5, random_state=0).fit(inputs, inputs @ [1.0, 0.1, 0.0])
    values = more[:, 0]
    public = permutation_importance(
        forest, more, values, scoring="neg_mean_squared_error", n_repeats=REPEATS, random_state=0
    )
    assert _error_lost(forest, more, values) == pytest.approx(public.importances)


def test_importance_says_why_it_cannot_be_told(frame: pd.DataFrame) -> None:
    assert "varies only one" in str(importance(frame, ["lr"], "val/accuracy"))
    assert "6 settings with a result are too few" in str(importance(frame, ["lr", "batch_size"], "val/accuracy"))
    same = pd.concat([grid(lambda *_: 0.5).assign(epochs=epochs) for epochs in (1, 2)], ignore_index=True)
    assert "no hyperparameter matters" in str(importance(same, ["lr", "batch_size", "epochs"], "val/accuracy"))


def answers() -> Answers:
    """Two classes and four images: one of class 0 is taken for 1, and surely so; one of class 1 for 0."""
    probabilities = np.array([[0.9, 0.1], [0.01, 0.99], [0.4, 0.6], [0.7, 0.3]], dtype=np.float32)
    return Answers(np.arange(16.0).reshape(4, 1, 2, 2), np.array([0, 0, 1, 1]), probabilities)


def test_mistakes_are_counted_and_the_surest_come_first() -> None:
    assert confusion(answers()).tolist() == [[1, 1], [1, 1]]
    assert surest_mistakes(answers()).tolist() == [1, 3]
    drawn = confusion_matrix(answers())
    assert drawn.get_suptitle() == "2 of 4 test images are classified wrongly"
    (axes,) = wrong_images(answers()).axes
    assert [image.get_array().tolist() for image in axes.images] == [[[4, 5], [6, 7]], [[12, 13], [14, 15]]]
    assert axes.texts[0].get_text() == "0, taken for 1\n(99.00% sure)"


def test_names_are_shown_as_they_are_and_pictures_depend_on_the_data_alone() -> None:
    rows = [
        row(number, {"note": note, "lr": 0.1}, {"val/accuracy": number / 10})
        for number, note in enumerate(["<script>x</script>", "$\\alpha$", 'id="a" href="#b"', "naïve ☃"])
    ]
    frame = as_frame(rows)
    drawn = [svg(by_param(frame, ["note"], ACCURACY, [0]), "notes") for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert "<script" not in drawn[0]
    assert "&lt;script&gt;x&lt;/s" in drawn[0]
    assert "$\\alpha$" in drawn[0]
    assert 'id="a" href="#b"' in drawn[0]
    assert "://" not in drawn[0]
    assert 'class="mark" data-trials="3"' in drawn[0]
    once, again = (png(by_param(frame, ["note"], ACCURACY, [0])) for _ in range(2))
    assert once == again


def test_more_trials_than_can_be_pointed_at_are_drawn_as_one() -> None:
    frame = as_frame([row(n, {"lr": (n + 1) / 1000}, {"val/accuracy": n / 1000}) for n in range(SINGLE + 1)])
    (axes,) = by_param(frame, ["lr"], ACCURACY, [0]).axes
    dots = [line for line in axes.lines if line.get_marker() == "o" and line.get_markersize() < 9]
    assert max(len(line.get_xdata()) for line in dots) == SINGLE  # type: ignore[arg-type]
    assert not any((line.get_gid() or "").startswith("trial") for line in dots)


def test_metrics_and_params_have_names_in_words() -> None:
    assert [words(name) for name in ("lr", "val/loss", "test/accuracy", "weight_decay")] == [
        "learning rate", "validation loss", "test accuracy", "weight decay",
    ]  # fmt: skip


LONG = Metric("val/quite_a_long_name_of_an_accuracy_that_somebody_gave", "max")


@pytest.mark.parametrize("varied", [["lr"], ["lr", "batch_size"], ["lr", "batch_size", "epochs"]])
@pytest.mark.parametrize("objective", [ACCURACY, LONG])
def test_titles_and_legends_are_inside_of_the_figure(varied: list[str], objective: Metric) -> None:
    values = list(itertools.product(range(1, 3), repeat=len(varied)))
    rows = [
        row(n, dict(zip(varied, some, strict=True)), {objective: n / 10, "train_seconds": 1.0 + n})
        for n, some in enumerate(values)
    ]
    frame = as_frame(rows, metric=objective)
    history = pd.DataFrame([(run_id, 1, 0.5) for run_id in frame["run_id"]], columns=["run_id", "step", "value"])
    label = " ".join(f"model.{letter * 9}={n}" for n, letter in enumerate("abcdef"))
    figures = [
        by_param(frame, varied, objective, [0]),
        parallel_coordinates(frame, varied, objective, [0]),
        learning_curves(frame, history, objective, [0], label),
        time_and_objective(frame, [[place] for place in frame.index], varied, objective, [0]),
        *([heat_maps(frame, pairs(frame, varied), objective, [0])] if len(varied) > 1 else []),
    ]
    for drawn in figures:
        png(drawn, dpi=100)  # puts all in its place
        for part in (drawn._suptitle, *drawn.legends):  # type: ignore[attr-defined]
            box = part.get_window_extent()
            inside = drawn.bbox.x0 <= box.x0 and box.x1 <= drawn.bbox.x1
            assert inside, (drawn.get_suptitle(), box.x1, drawn.bbox.x1)
            assert drawn.bbox.y0 <= box.y0 <= box.y1 <= drawn.bbox.y1
        tops = [axes.get_tightbbox().y1 for axes in drawn.axes if axes.get_visible()]
        assert max(tops) <= drawn._suptitle.get_window_extent().y0  # type: ignore[attr-defined]


def test_the_curves_of_a_sweep_of_seeds_alone_are_those_of_this_setting() -> None:
    frame = as_frame([row(seed, {"seed": seed}, {"val/accuracy": 0.5 + seed / 10}) for seed in range(2)])
    history = pd.DataFrame([(run_id, 1, 0.5) for run_id in frame["run_id"]], columns=["run_id", "step", "value"])
    (legend,) = learning_curves(frame, history, ACCURACY, [0, 1], "").legends
    assert [text.get_text() for text in legend.get_texts()] == ["this setting"]


def predicted(outputs: int = 1) -> Predicted:
    """Ten items of the value 0, 1, ...; item 3 is predicted 5 too high, item 7 is 2 too low, the others are right."""
    targets = np.arange(10, dtype=np.float32)[:, None].repeat(outputs, 1)
    values = targets.copy()
    values[3, 0] += 5
    values[7, -1] -= 2
    return Predicted(targets, values)


def test_the_residuals_of_a_regression_are_drawn_and_the_largest_are_listed() -> None:
    assert largest_residuals(predicted())[:2].tolist() == [[3, 0], [7, 0]]
    (axes,) = predicted_and_true(predicted()).axes
    line, marks, rings = axes.lines
    assert np.asarray(line.get_xdata()).tolist() == np.asarray(line.get_ydata()).tolist() == [0, 9]
    assert np.asarray(marks.get_xdata()).tolist() == [*range(10)]
    assert np.asarray(marks.get_ydata()).tolist() == [0, 1, 2, 8, 4, 5, 6, 5, 8, 9]
    assert np.asarray(rings.get_xdata())[:2].tolist() == [3, 7]
    (axes,) = residual_bars(predicted()).axes
    assert [bar.get_width() for bar in axes.patches][:2] == [-5, 2]  # type: ignore[attr-defined]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:2] == ["item 3: true 3, predicted 8", "item 7: true 7, predicted 5"]


def test_residuals_of_several_outputs_are_compared_in_units_of_their_spread() -> None:
    found = predicted(2)
    found.targets[:, 1] /= 100
    found.values[:, 1] /= 100
    assert largest_residuals(found)[:2].tolist() == [[3, 0], [7, 1]]
    found.values[7, 1] -= 0.08
    assert largest_residuals(found)[:2].tolist() == [[7, 1], [3, 0]]
    panels = predicted_and_true(found).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["output 0", "output 1"]
    labels = [label.get_text() for label in residual_bars(found).axes[0].get_yticklabels()]
    assert labels[0] == "item 7, output 1: true 0.07, predicted -0.03"
    constant = Predicted(np.zeros((4, 1), np.float32), np.array([[0], [2], [0], [1]], np.float32))
    assert largest_residuals(constant)[:2].tolist() == [[1, 0], [3, 0]]


def test_recall_is_drawn_for_each_class_that_has_test_items_the_lowest_first() -> None:
    uneven = recall_of_classes(np.array([[40, 0, 0], [5, 5, 0], [0, 0, 0]]))
    assert uneven.uneven
    assert not recall_of_classes(np.array([[8, 2], [5, 5]])).uneven
    (axes,) = recall_bars(uneven).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["class 1 (of 10)", "class 0 (of 40)"]
    assert [bar.get_width() for bar in axes.patches] == [0.5, 1.0]  # type: ignore[attr-defined]
    (bars,) = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
    ends = bars.lines[2][0].get_segments()
    for end, (hits, count) in zip(ends, ((5, 10), (40, 40)), strict=True):
        assert end[:, 0] == pytest.approx(wilson(hits, count))


def test_recall_of_labels_counts_the_items_that_have_the_label() -> None:
    targets = np.array([[1, 0], [1, 1], [0, 1], [1, 0]], np.float32)
    values = np.array([[1, 1], [0, 1], [1, 0], [1, 0]], np.uint8)
    found = recall_of_labels(Predicted(targets, values))
    assert (found.found.tolist(), found.counts.tolist()) == ([2, 1], [3, 2])
    labels = [label.get_text() for label in recall_bars(found).axes[0].get_yticklabels()]
    assert labels == ["label 1 (of 2)", "label 0 (of 3)"]


@pytest.mark.parametrize("outputs", [1, 2, 7])
def test_pictures_of_residuals_depend_on_the_data_alone_and_stay_small(outputs: int) -> None:
    rng = np.random.default_rng(0)
    found = Predicted(*rng.standard_normal((2, 20_000, outputs)).astype(np.float32))
    once, again = (svg(predicted_and_true(found), "predicted") for _ in range(2))
    assert once == again
    assert len(once) < 1_000_000
    assert svg(residual_bars(found), "residuals") == svg(residual_bars(found), "residuals")
