"""What pruners leave of several stacks goes on in one stack, and ends where the plain trainer takes it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sweepstack.config.schema import TrialConfig
from sweepstack.training.checkpoint import CheckpointError, CheckpointManager
from sweepstack.training.stacked import build
from sweepstack.training.stacked.loop import train_stack
from sweepstack.training.stacked.members import TrialReader
from sweepstack.training.stacked.unite import unite
from sweepstack.training.trainer import train
from sweepstack.trial import Outcome, TrialState

from .test_stacked_loop import CPU, MLP, adam, data_of, own

SGD = {"_target_": "torch.optim.SGD"}


class Stacks:
    """Trains stacks with checkpoints in folders of their own. Trials are known by the numbers of their configs."""

    def __init__(self, configs: Sequence[TrialConfig], folder: Path) -> None:
        self.configs, self.folder = configs, folder
        self.outcomes: dict[str, Outcome] = {}

    def train(self, numbers: Sequence[int], name: str, goes_on: Sequence[int] = (), at: int = 0) -> CheckpointManager:
        """Trains a stack to its end; or until those that do not go on are pruned after an epoch, and the others pause.

        Args:
            numbers: those of its trials.
            name: that of its folder.
            goes_on: those that pause.
            at: the epoch after which they do; 0: none.
        """
        readers = [self._reader(number) for number in numbers]
        lost = {str(number) for number in numbers} - {str(number) for number in goes_on}
        epochs = iter(range(1, 100))

        def prune() -> set[str]:
            return lost if next(epochs) == at else set()

        checkpoints = CheckpointManager(self.folder / name, 1e9, unite=self.unite)
        checkpoints.restore()
        configs = [self.configs[number] for number in numbers]
        model = build.build_stacked_model(configs, configs[0].dataset.shape or (), CPU)
        data = data_of(configs[0])
        train_stack([[one] for one in readers], data, model, checkpoints, prune, lambda left: lost.isdisjoint(left))
        return checkpoints

    def _reader(self, number: int) -> TrialReader:
        def end(outcome: Outcome) -> None:
            self.outcomes[str(number)] = outcome

        return TrialReader(self.configs[number], lambda measurement: None, end, str(number))

    def unite(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return unite(states, {key for key, one in self.outcomes.items() if one.state is TrialState.PRUNED} - {"0", "3"})

    def give(self, names: Sequence[str], united: str) -> None:
        """Gives a stack the states of others, as a session does."""
        (self.folder / united).mkdir()
        for number, name in enumerate(names):
            (self.folder / name / "latest.pt").rename(self.folder / united / f"part-{number}.pt")


@pytest.mark.parametrize(
    "changes",
    [
        [{"optimizer": {**SGD, "lr": lr, "momentum": 0.9 * (number > 2)}} for number, lr in enumerate([0.1, 0.2] * 3)],
        [{**MLP, **adam(lr, amsgrad=True), "seed": number % 2} for number, lr in enumerate([0.01, 0.003] * 3)],
        [{**own("Smooth"), "optimizer": {**SGD, "lr": lr, "momentum": 0.5}} for lr in (0.1, 0.2, 0.05, 0.3, 0.1, 0.02)],
    ],
    ids=["momentum in one of both", "Adam, two seeds", "buffers"],
)
def test_it_ends_where_the_plain_trainer_takes_it(
    digits_config: Callable[..., TrialConfig], tmp_path: Path, changes: list[dict[str, Any]]
) -> None:
    configs = [digits_config({**change, "epochs": 4}) for change in changes]
    stacks = Stacks(configs, tmp_path)
    stacks.train([0, 1, 2], "first", [1, 2], at=2)
    stacks.train([3, 4, 5], "second", [4], at=2)
    assert {one.state for one in stacks.outcomes.values()} == {TrialState.PRUNED}
    stacks.give(["first", "second"], "united")
    stacks.train([2, 1, 4], "united")
    for number in (1, 2, 4):
        outcome = stacks.outcomes[str(number)]
        alone = train(configs[number], data_of(configs[number]), lambda measurement: None)
        assert outcome.state is TrialState.FINISHED
        assert outcome.metrics["val/loss"] == pytest.approx(alone.metrics["val/loss"], abs=1e-4)
        assert outcome.weights is not None
        assert alone.weights is not None
        for name, value in alone.weights.items():
            torch.testing.assert_close(outcome.weights[name], value, atol=1e-4, rtol=1e-4)


def test_a_stack_that_paused_pauses_again_unless_it_is_to_go_on(
    digits_config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    configs = [digits_config({"optimizer.lr": lr, "epochs": 3}) for lr in (0.1, 0.2, 0.3)]
    stacks = Stacks(configs, tmp_path)
    stacks.train([0, 1, 2], "stack", [1, 2], at=1)
    stacks.outcomes.clear()
    step = stacks.train([0, 1, 2], "stack", [1, 2], at=1).state
    assert {key: one.state for key, one in stacks.outcomes.items()} == {"1": TrialState.PRUNED, "2": TrialState.PRUNED}
    assert step is not None
    united = stacks.unite([step])
    assert "paused" not in united
    assert [one["readers"][0]["key"] for one in united["members"]] == ["1", "2"]


def test_states_of_other_steps_or_models_do_not_go_together(
    digits_config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    configs = [digits_config({**MLP, "optimizer.lr": 0.1 + 0.1 * n, "epochs": 4}) for n in range(6)]
    stacks = Stacks(configs, tmp_path)
    one = stacks.train([0, 1, 2], "one", [1, 2], at=1)
    other = stacks.train([3, 4, 5], "other", [4], at=2)
    states = [one.restore(), other.restore()]
    assert None not in states
    with pytest.raises(CheckpointError, match="steps"):
        stacks.unite([state for state in states if state is not None])
    said: list[str] = []
    stacks.give(["one", "other"], "united")
    manager = CheckpointManager(tmp_path / "united", say=said.append, unite=stacks.unite)
    assert manager.restore() is None
    assert "cannot go on together" in said[0]
    assert "training begins from scratch" in said[0]
    assert not [*(tmp_path / "united").glob("part-*")]
