"""Sweepers of others with our launcher: they get a number of each job, or its failure if they count failures."""

import json

import pytest

from ..terminal import Terminal

SWEEPER = """
import json
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper


class Adaptive(Sweeper):
    '''Launches some jobs at a time and reads their returns, as the sweepers of Optuna and Nevergrad for Hydra do.'''

    def __init__(self, jobs_at_a_time, max_failure_rate=None):
        self.number, self.rate = jobs_at_a_time, max_failure_rate

    def setup(self, *, hydra_context, task_function, config):
        from hydra.core.plugins import Plugins
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        fixed = [line for line in arguments if not line.startswith("optimizer.lr=")]
        (searched,) = [line for line in arguments if line.startswith("optimizer.lr=")]
        values = searched.partition("=")[2].split(",")
        seen, first = [], 0
        while values:
            batch, values = values[: self.number], values[self.number :]
            returns = self.launcher.launch([[*fixed, f"optimizer.lr={one}"] for one in batch], initial_job_idx=first)
            first += len(batch)
            failures = []
            for done in returns:
                if self.rate is None:
                    seen.append(str(done.return_value))
                    continue
                try:
                    seen.append(str(float(done.return_value)))
                except Exception as error:
                    seen.append(done.status.name)
                    failures.append(error)
            with open("seen.json", "w") as file:
                json.dump(seen, file)
            if self.rate is not None and len(failures) / len(returns) > self.rate:
                for done in returns:
                    done.return_value
"""
WORDS = (
    "dataset=digits",
    "epochs=1",
    "device=cpu",
    "threads=1",
    "hydra/sweeper=adaptive",
    "optimizer.lr=0.1,1e38,0.01",
)


@pytest.fixture
def sweep(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal in a folder with a sweeper of others, which Hydra finds as it finds theirs."""
    monkeypatch.setenv("PYTHONPATH", str(terminal.folder))
    package, config = terminal.folder / "hydra_plugins" / "of_others", terminal.folder / "conf" / "hydra" / "sweeper"
    for folder in (package, config):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sweeper.py").write_text(SWEEPER)
    (config / "adaptive.yaml").write_text("_target_: hydra_plugins.of_others.sweeper.Adaptive\njobs_at_a_time: 2\n")
    return terminal


def typed(terminal: Terminal, *words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a sweep; an interpreter of its own finds plug-ins when it begins."""
    process = terminal.start("train.py", "-m", "--config-dir", "conf", *WORDS, *words, fresh=True)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def test_a_sweeper_that_counts_failures_goes_on_after_one(sweep: Terminal) -> None:
    code, out, err = typed(sweep, "+hydra.sweeper.max_failure_rate=0.5")
    assert code == 1, err  # a trial has failed
    first, failed, last = json.loads((sweep.folder / "seen.json").read_text())
    assert (float(first) > 0, failed, float(last) > 0) == (True, "FAILED", True)
    assert "the loss was inf" in out


def test_a_sweeper_that_takes_no_failure_ends_with_one_line_that_says_how_to_go_on(sweep: Terminal) -> None:
    code, _, err = typed(sweep, "+hydra.sweeper.max_failure_rate=0.0")
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: lr=1e38 FAILED: the loss was inf")
    assert line.endswith("; hydra.sweeper.max_failure_rate=1 goes on after failures")
    assert "Traceback" not in err
    assert len(json.loads((sweep.folder / "seen.json").read_text())) == 2


def test_a_sweeper_that_expects_numbers_gets_nan_of_a_trial_that_failed(sweep: Terminal) -> None:
    code, _, err = typed(sweep)
    assert code == 1, err
    first, failed, last = map(float, json.loads((sweep.folder / "seen.json").read_text()))
    assert failed != failed
    assert min(first, last) > 0
