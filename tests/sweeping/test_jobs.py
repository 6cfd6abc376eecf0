"""What tells the trials of a sweep apart."""

from sweepstack.sweeping.jobs import varied_keys


def test_only_what_differs_makes_the_name() -> None:
    jobs = [["epochs=5", "optimizer.lr=0.1"], ["epochs=5", "optimizer.lr=0.2"]]
    assert varied_keys(jobs) == {"optimizer.lr"}


def test_a_key_that_some_jobs_lack_differs_too() -> None:
    assert varied_keys([["a=1", "+b=2"], ["a=1"]]) == {"+b"}


def test_a_single_job_is_named_by_all_that_was_typed() -> None:
    assert varied_keys([["epochs=5", "optimizer.lr=0.1"]]) == {"epochs", "optimizer.lr"}
