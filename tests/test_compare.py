"""Tuning curves of real sweeps, as they are typed: `sweepstack compare`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweepstack.results.tables.frame import table
from sweepstack.tracking.store import Store

from . import here
from .terminal import new_store

SMALL = ("dataset=digits", "epochs=1", "device=cpu", "threads=1")
RATES = "optimizer.lr=0.001,0.01,0.1"
DRAWN = (("0.0031415", "50"), ("0.23093", "100"), ("0.017172", "200"), ("0.081818", "50"))
"""Learning rates and batch sizes as a random search draws them."""
SWEEPS = {
    "wide": [RATES, "batch_size=50,200"],
    "small": ["optimizer.lr=0.0001,0.0002,0.001"],
    "seeds": [RATES, "seed=0,1"],
    "tempted": [RATES, "validation_split=0"],
    "failing": ["optimizer.lr=0.01,0.1,1e38", "batch_size=50"],
    "single": ["seed=0,1"],
    "halved": [RATES, "epochs=2", "pruner=halving"],
    "halves": [RATES, "validation_split=0.5"],
    "diabetes": ["dataset=diabetes", "model=linear", "task=regression", "optimizer.lr=0.01,0.1"],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Store]:
    """A store with sweeps of the digits, in whose folder commands are typed."""
    folder = tmp_path_factory.mktemp("compare")
    made = new_store(folder, empty_database)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", made.uri)
        for name, words in SWEEPS.items():
            done = here.train("-m", *SMALL, *words, f"tracking.sweep={name}")
            assert done.code == (1 if name == "failing" else 0), done.err
        for rate, batch in DRAWN:
            words = ["-m", *SMALL, f"optimizer.lr={rate}", f"batch_size={batch}", "tracking.sweep=drawn"]
            assert here.train(*words).code == 0
        yield made


def compared(*words: str) -> dict:
    """What programs read."""
    done = here.sweepstack("compare", *words, "--json")
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def refused(*words: str) -> str:
    done = here.sweepstack("compare", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    return done.err


def test_a_grid_is_compared_with_a_smaller_one_that_is_worse(store):
    done = here.sweepstack("compare", "wide", "small")
    assert done.code == 0
    assert "wide: taken as a grid, because its 6 settings are all combinations of lr, batch_size" in done.err
    assert (
        "wide was not only tuned more than small: it is better. With 3 trials each, the median of the best is"
        in done.out
    )
    assert "95 % of the random orders of its 6 settings; these are all there is" in done.out
    found = compared("wide", "small")
    wide, small = found["sweeps"]
    values = sorted(table("wide", store=store)["val/accuracy"])
    assert [point["median"] for point in wide["curve"]][0::5] == [values[2], values[-1]]
    assert (wide["search"], wide["trials"], small["trials"]) == ("grid", 6, 3)
    assert found["ahead"] == ["wide"] * 3
    assert found["sentence"] in done.out


def test_the_same_grid_with_more_points_was_only_tuned_more(store):
    """The best learning rates are in both; in the wide one with two batch sizes."""
    found = compared("small", "wide", "--metric", "train/loss")
    assert found["mode"] == "min"
    assert found["ahead"] == ["wide"] * 3
    same = compared("wide", "seeds")
    assert "the median of the best is" in same["sentence"]
    assert same["sweeps"][1]["trials"] == 3  # a setting is the mean over its seeds


def test_of_a_random_search_it_must_be_said_that_it_is_one(store):
    assert "nothing records how they were chosen; say it: --search random" in refused("drawn")
    assert "--search must be one of grid, random, adaptive" in refused("drawn", "--search", "tpe")
    done = here.sweepstack("compare", "drawn", "wide", "--search", "random,grid")
    assert (done.code, done.err) == (0, "")
    assert "95 % for the whole curve, whatever the distribution of the values" in done.out
    assert "cannot be said" in done.out
    found = compared("drawn", "--search", "random")
    (drawn,) = found["sweeps"]
    assert drawn["curve"][-1]["high"] is None
    assert drawn["best"] == drawn["curve"][-1]["median"] == table("drawn", store=store)["val/accuracy"].max()


def test_a_random_search_that_may_have_drawn_a_setting_twice_has_no_band(store):
    """Three learning rates and two batch sizes: of the draws that gave these six settings only six are recorded."""
    reason = "no band: no varied param looks continuous (a fraction with more than 4 digits, another in each setting)"
    done = here.sweepstack("compare", "wide", "--search", "random")
    assert f"wide, random search: {reason}" in done.out
    found = compared("wide", "drawn", "--search", "random")
    wide, drawn = found["sweeps"]
    assert {(point["low"], point["high"]) for point in wide["curve"]} == {(None, None)}
    assert drawn["curve"][-1]["low"] is not None
    assert (
        f"cannot be said. With 4 trials each, the median of the best is {wide['curve'][3]['median']:.4f}"
        in (found["sentence"])
    )
    assert f"wide: {reason}" in found["sentence"]


def test_an_adaptive_search_has_a_band_only_if_it_was_repeated(store):
    found = compared("wide", "small", "--search", "adaptive")
    assert set(found["ahead"]) == {None}
    assert "an adaptive search must be done 7 times, and this one was done once" in found["sentence"]
    in_order = table("wide", store=store).sort_values(["lr", "batch_size"])["val/accuracy"]  # as they were typed
    assert [one["median"] for one in found["sweeps"][0]["curve"]] == in_order.cummax().tolist()
    several = here.sweepstack("compare", "wide,seeds", "--search", "adaptive")
    assert "the best of 3 trials is" in several.out
    assert "(median of 2 searches)" in several.out
    assert "several sweeps are one search only if they repeat an adaptive one" in refused("wide,small")


def test_a_trial_that_failed_was_spent(store):
    done = here.sweepstack("compare", "failing")
    assert "failing: 1 setting counts as the worst, because trials gave no value" in done.err
    (failing,) = compared("failing")["sweeps"]
    assert (failing["failed"], failing["trials"]) == (1, 3)
    low, high = sorted(table("failing", store=store)["val/accuracy"].dropna())[-2:]
    assert failing["curve"][0] == {"trials": 1, "median": low, "low": None, "high": high}


def test_settings_that_a_pruner_ended_were_spent_though_one_alone_is_whole(store):
    done = here.sweepstack("compare", "halved")
    assert "halved: 2 settings count as the worst, because a pruner ended it" in done.err
    (halved,) = compared("halved")["sweeps"]
    assert (halved["failed"], halved["trials"]) == (2, 3)


def test_where_test_data_selected_it_is_said(store):
    done = here.sweepstack("compare", "tempted")
    assert "nothing was held out, so test data selected" in done.err
    assert "nothing was held out" in " ".join(compared("tempted")["notes"])


def test_sweeps_that_hold_out_other_parts_are_compared_with_a_note(store):
    assert "hold out different parts of the data" in " ".join(compared("wide", "halves")["notes"])


def test_what_cannot_be_compared_is_one_line(store):
    assert "two different sweeps can be compared, got 'wide twice'" in refused("wide", "wide")
    adaptive = ("--search", "adaptive")
    assert "two different sweeps can be compared, got 'wide twice'" in refused("wide,seeds", "halves,wide", *adaptive)
    assert "two different sweeps can be compared, got 'wide twice'" in refused("small,wide", "wide", *adaptive)
    assert "there is no sweep 'wid'" in refused("wide", "wid")
    assert "did you mean 'wide'?" in refused("wide", "wid")
    assert "a tuning curve needs two settings at least, got '1 in sweep single'" in refused("single", "wide")
    assert "sweeps of one objective can be compared" in refused("wide", "tempted")
    assert "the highest val/accuracy of wide and the lowest val/rmse of diabetes" in refused("wide", "diabetes")
    assert "dataset=diabetes" in refused("wide", "diabetes", "--metric", "val/loss")
    assert "there is no metric 'val/acuracy'" in refused("wide", "--metric", "val/acuracy")
    assert "one sweep or two can be compared" in refused("wide", "small", "seeds")
    assert "a tuning curve is of one sweep, got 'all'" in refused("all")
    assert "a plot is a file that ends with .svg, .png or .html" in refused("wide", "-o", "curve.pdf")


def test_the_plot_is_a_file(store, tmp_path):
    for name, begin in {"a.svg": b"<?xml", "a.png": b"\x89PNG", "a.html": b"<!doctype html>"}.items():
        done = here.sweepstack("compare", "wide", "small", "-o", str(tmp_path / name))
        assert done.code == 0
        content = (tmp_path / name).read_bytes()
        assert content.startswith(begin)
        here.sweepstack("compare", "wide", "small", "-o", str(tmp_path / name))
        assert (tmp_path / name).read_bytes() == content
    assert "wide was not only tuned more than small: it is better." in (tmp_path / "a.html").read_text()
