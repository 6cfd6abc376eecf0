"""Adding a key is one line in `config/schema.py`: everything else follows from its model and its marks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sweepstack.config import schema

from ..terminal import DIGITS, ROOT
from .test_fingerprint import PINNED

ADDED = {
    "    rerun: Annotated": [
        "plain: int = 0",
        "per_job: Annotated[int, Mark.PER_JOB] = 0",
        "per_stack: Annotated[int, Mark.PER_STACK] = 0",
        "recorded: Annotated[int, Mark.RECORDED] = 0",
    ],
    "    precision: Annotated": [
        "trained: int = 0",
        "measures: Annotated[int, Mark.MEASURES] = 0",
        "parsed: Annotated[int, Mark.PARSED] = 0",
    ],
}
"""Lines that are added to `RunConfig` and to `TrialConfig`, by the line that they come before."""
PROGRAM = """
import json, sys
from pathlib import Path
import sweepstack.config
sweepstack.config.__path__.insert(0, sys.argv[1])
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
import sweepstack.app
from sweepstack.config.fingerprint import fingerprint
from sweepstack.config.parsing import parse
from sweepstack.errors import ConfigError
from sweepstack.execution.executor import InProcessExecutor
from sweepstack.execution.prepare import check
from sweepstack.execution.describe import _differing_keys
from sweepstack.hydra_adapter.composer import Composer
from sweepstack.hydra_adapter.job_context import split_job
from sweepstack.hydra_adapter.trials import OF_SWEEP, make_trial
from sweepstack.journal.codec import trial_as_json, trial_from_json
from sweepstack.planning.compatibility import stack_key, trajectory_key

DATA, CODE = "0" * 16, "0" * 8

def trial_of(loader, *words):
    sweep = loader.load_configuration("config", ["dataset=digits", *words], run_mode=RunMode.MULTIRUN)
    own, hydra = split_job(Composer(loader, sweep).compose(["dataset=digits", *words], 0))
    return make_trial(own, hydra, Path(), (), in_sweep=True)

def about(trial):
    checked = set()
    check(trial, checked, {}, InProcessExecutor())
    return {
        "fingerprint": fingerprint(trial.config, DATA, CODE).config,
        "stack": stack_key(trial.config, trial.run),
        "trajectory": trajectory_key(trial.config, trial.run),
        "name": trial.name,
        "params": trial.params,
        "checked": checked,
    }

found = {"per sweep": OF_SWEEP}
with initialize_config_dir(sys.argv[2], version_base="1.3", job_name="train"):
    loader = GlobalHydra.instance().config_loader()
    base = trial_of(loader)
    found["pinned"] = fingerprint(parse(json.loads(sys.argv[3])).trial, DATA, CODE).config
    for key in sys.argv[4:]:
        other = trial_of(loader, f"+{key}=3")
        stored = trial_as_json(other)
        assert trial_from_json(json.loads(json.dumps(stored))) == other
        assert stored["config"][key] == 3
        del stored["config"][key]
        read = trial_from_json(stored)
        assert (read.config, read.run) == (base.config, base.run)
        one, two = about(base), about(other)
        found[key] = [what for what in one if one[what] != two[what]]
        found[key] += [f"not {x}" for x in _differing_keys([base, other])]
        try:
            trial_of(loader, f"+{key}=much")
        except ConfigError as error:
            assert str(error).startswith(f"{key} should be a valid integer"), error
        else:
            raise AssertionError(key)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program finds with a schema that has more keys: for each of them, what depends on its value."""
    source = Path(schema.__file__).read_text()
    for before, lines in ADDED.items():
        assert source.count(before) == 1
        source = source.replace(before, "".join(f"    {line}\n" for line in lines) + before)
    folder = tmp_path_factory.mktemp("config")
    (folder / "schema.py").write_text(source)
    keys = [line.partition(":")[0] for lines in ADDED.values() for line in lines]
    plain = json.dumps(DIGITS)
    program = tmp_path_factory.mktemp("program") / "train.py"  # by this name it is forked, see tests/forking.py
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(folder), str(ROOT / "conf"), plain, *keys]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("plain", ["not plain"]),
        ("per_job", ["name", "not per_job"]),
        ("per_stack", ["stack", "trajectory", "not per_stack"]),
        ("recorded", ["params", "not recorded"]),
        ("trained", ["fingerprint", "stack", "trajectory", "name", "params", "checked"]),
        ("measures", ["fingerprint", "name", "checked"]),
        ("parsed", ["fingerprint", "stack", "trajectory", "name", "params"]),
    ],
)
def test_what_depends_on_a_new_key_follows_from_its_line_in_the_schema(
    found: dict[str, Any], key: str, expected: list[str]
) -> None:
    """ "not" says that jobs which differ in the key are one trial, and that the user is told so."""
    assert found[key] == expected


def test_a_new_key_of_how_it_is_run_has_one_value_for_a_sweep_unless_it_is_marked(found: dict[str, Any]) -> None:
    assert {"plain", "per_stack", "recorded"} <= {*found["per sweep"]}
    assert "per_job" not in found["per sweep"]


def test_new_keys_change_no_fingerprint_that_was_recorded_before(found: dict[str, Any]) -> None:
    assert found["pinned"] == PINNED
