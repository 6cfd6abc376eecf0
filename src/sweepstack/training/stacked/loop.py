"""The stacked trainer: many trajectories at once, each read by one or more trials at their own ends.

Every trial ends where the plain trainer takes it, within rounding: the same initial weights, batches, steps and
measurements; `trainer.train` is the reference, and the tests compare.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sweepstack.config.schema import TrialConfig
from sweepstack.schedules import factor, looks_at_horizon
from sweepstack.training.checkpoint import NEVER, CheckpointError, CheckpointManager, fitting
from sweepstack.training.data.source import Data
from sweepstack.training.module_state import Unkept
from sweepstack.training.objective import ObjectiveTracker
from sweepstack.training.outcomes import (
    diverged,
    finished,
    killed,
    pruned,
    undefined_metric,
    unmeasurable,
    update_metrics,
)
from sweepstack.training.random_state import random_state, seed_all, set_random_state, stream
from sweepstack.training.stacked.model import StackedModel
from sweepstack.training.stacked.single_model import SingleModel
from sweepstack.training.updates import in_groups
from sweepstack.trial import MOST_AXES, Measurement, OnMeasured, Outcome, Verdict

SHRINK = 0.75
"""A stack goes on with the members that still train once these are at most so many of it. A member that leaves changes
the width, and with it the last bits of the others; one that stays frozen costs its part of every step."""


@dataclass(eq=False)
class TrialReader:
    """A trial that reads a trajectory up to its own end."""

    config: TrialConfig
    report: OnMeasured
    end: Callable[[Outcome], None]
    """Takes the trial's outcome as soon as it is known."""
    key: str = ""
    """What a checkpoint knows it by, such as the trial's fingerprint; unique in the stack."""
    metrics: dict[str, float] = field(default_factory=dict)
    share: float = 0.0
    """Seconds of the stack that were this trial's part."""
    kept: Mapping[str, Any] | None = None
    """The best measurement so far, in the form of `trainer.tested`; only with `keep_best`."""

    def __post_init__(self) -> None:
        self.tracker = ObjectiveTracker(self.config)

    def every(self, steps: int) -> int:
        """Updates from one measurement to the next, at `steps` an epoch."""
        return steps if self.config.evaluate_every == "epoch" else self.config.evaluate_every

    def is_due(self, step: int, steps: int) -> bool:
        """Whether it is measured after `step` updates."""
        return step % self.every(steps) == 0 or self.is_at_end(step, steps)

    def is_at_end(self, step: int, steps: int) -> bool:
        return step == steps * self.config.epochs or self.tracker.ends_early

    def may_keep(self, step: int, steps: int) -> bool:
        """Whether a measurement after `step` updates can be the one whose predictions are kept."""
        return self.tracker.may_keep(step == steps * self.config.epochs)


@dataclass
class Member:
    """A trajectory in the stack."""

    config: TrialConfig
    """The one with the most epochs among those of its trials."""
    readers: list[TrialReader]
    """Those that have not ended."""
    trajectory: int
    """Its place among those that the stack began, or went on, with."""


@dataclass
class Evaluated:
    """What the members of a stack give on a part of the data."""

    metrics: Sequence[Mapping[str, float]]
    """The loss and the metrics of each member."""
    parts: list[Tensor]
    """Their predictions, as they are stored, for each batch: [K, n, ...], on the device."""

    def predictions(self) -> Tensor | None:
        """Returns the predictions of all members, [K, n, ...], on the CPU; None if they were not asked for."""
        return torch.cat(self.parts, 1).cpu() if self.parts else None

    def held_out_predictions(self) -> Tensor | None:
        """Returns `predictions`, those of the held-out items, if they are kept; see `MOST_AXES`."""
        return self.predictions() if self.parts and self.parts[0].ndim - 1 <= MOST_AXES else None


class Clock:
    """Seconds of training, without those of tests and of what is done with outcomes."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._divided = time.perf_counter()
        self._began = self._divided - seconds

    def seconds(self) -> float:
        """Up to the last call of `divide`, so that they are the sum of all shares."""
        return self._divided - self._began

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        passed = time.perf_counter() - began
        self._began += passed
        self._divided += passed

    def divide(self, members: Sequence[Member]) -> None:
        """Gives each member, and of it each reader, an equal part of what has passed since the last time."""
        now = time.perf_counter()
        training = [member for member in members if member.readers]
        for member in training:
            for reader in member.readers:
                reader.share += (now - self._divided) / len(training) / len(member.readers)
        self._divided = now


def train_stack(
    trajectories: Sequence[Sequence[TrialReader]],
    data: Data,
    model: StackedModel | SingleModel,
    checkpoints: CheckpointManager = NEVER,
    prune: Callable[[], Collection[str]] = tuple,
    pause: Callable[[Collection[str]], bool] = lambda keys: False,
) -> None:
    """Trains a stack until every reader has its outcome.

    A member whose loss is not a finite number is frozen, and its readers end FAILED; the others do not notice.
    `train_seconds` of an outcome are the seconds of training from the beginning of the stack to the trial's end;
    `train_seconds_share` is the trial's part of them, and the parts of all trials make up those of the stack.

    Args:
        trajectories: the readers of each; configs of one trajectory differ in `epochs` and `evaluate_every` only.
        model: its members, one a trajectory and in the same order.
        checkpoints: keeps the state after an epoch when that is due, and whenever the training is stopped: then the
            readers that have not ended end KILLED. Training resumes from its `state`, see `_resume_stack`.
        prune: called once all readers that are due have reported; returns the keys of those that leave PRUNED. Their
            state is kept for them, and the stack gets narrower.
        pause: called with the keys of those that are left then; returns whether these go on in another stack. If so,
            their state is saved and their readers get PRUNED, which the caller must not take for their outcome.

    Raises:
        CheckpointError: the keeper's state does not fit. The model cannot be used any more; the readers can.
    """
    members = [
        Member(max((r.config for r in readers), key=_epochs), [*readers], n) for n, readers in enumerate(trajectories)
    ]
    first = members[0].config
    steps = data.steps_per_epoch(first.batch_size, first.accumulate)
    step, seed = 0, first.seed
    losses: list[Tensor] = []  # of this epoch; on the device, for looking at one would wait for it
    clock = Clock()
    if checkpoints.state is not None:
        members, step, seed, losses, clock = _resume_stack(checkpoints.state, members, model, steps, data.device)
        if checkpoints.state.get("paused") and pause(_keys(members)):
            _prune(members, _keys(members), clock)
            return

    def save(pruned_at: int | None = None, paused: bool = False) -> bool:
        clock.divide(members)
        position = {"steps": steps, "step": step, "seed": seed, "seconds": clock.seconds()}
        recent = torch.stack(losses)[: step % steps].cpu().clone()  # of an epoch that is done none is needed
        random = random_state(data.device)
        try:
            trained = _state(trajectories, members, model)
        except Unkept as what:
            checkpoints.cannot(str(what))
            return False
        state = {**position, **trained, "losses": recent, "random": random, **({"paused": True} if paused else {})}
        return checkpoints.save(state, pruned_at)

    while any(member.readers for member in members):
        epoch, done = step // steps + 1, step % steps  # some of an epoch is done where the stack was stopped in it
        if not done:
            members = _shrink(members, model)
            losses = []
        factors = epoch_factors([member.config for member in members], epoch, steps)
        model.set_factors(factors, done)
        seed_all(stream(seed, "dropout", epoch))
        if done and checkpoints.state is not None:
            with fitting():
                set_random_state(checkpoints.state["random"], data.device)
        stops = _stops(members, epoch, steps)
        batches = data.stacked_batches(first.batch_size, model.seeds, epoch, skip=done * first.accumulate)
        for (images, labels), *more in in_groups(batches, first.accumulate):
            losses.append(model.step(images, labels, *more))
            step += 1
            if step in stops:
                recent = torch.stack(losses).cpu()
                _fail_members(members, model, recent, step, steps, clock)
                rates = factors[len(losses) - 1]
                _end_trials(
                    members, model, data, step, clock, _measure(members, model, data, recent, rates, step, clock)
                )  # no variable: it would keep the predictions on the device while the stack trains on
                leaving = prune()
                left = _keys(members) - {*leaving}
                pauses = pause(left)
                if pauses or len(left) < len(_keys(members)):
                    save(step if sum(map(len, trajectories)) > 1 else None)
                    _prune(members, leaving, clock)
                if pauses and save(paused=True):
                    _prune(members, left, clock)
                    return
                if not left:
                    break
            if checkpoints.stopping or (step % steps == 0 and checkpoints.due()):
                save()
                if checkpoints.stopping:
                    _kill(members, step, steps, clock)
                    return


def _state(
    trajectories: Sequence[Sequence[TrialReader]], members: Sequence[Member], model: StackedModel | SingleModel
) -> dict[str, Any]:
    """Who is in the stack and how far, and the model; the tensors are not copied."""
    return {
        "trajectories": [[reader.key for reader in readers] for readers in trajectories],
        "members": [
            {
                "trajectory": member.trajectory,
                "readers": [_state_of_reader(reader) for reader in member.readers],
            }
            for member in members
        ],
        "model": model.state(),
    }


def _state_of_reader(reader: TrialReader) -> dict[str, Any]:
    best = {} if reader.kept is None else {"kept": reader.kept}
    return {"key": reader.key, "figures": reader.metrics, "share": reader.share, **reader.tracker.state(), **best}


def _resume_stack(
    state: Mapping[str, Any],
    passed: Sequence[Member],
    model: StackedModel | SingleModel,
    steps: int,
    device: torch.device,
) -> tuple[list[Member], int, int, list[Tensor], Clock]:
    """Brings everything to where it was when the state was kept: gives back the members, the steps that were done, the
    seed of the random numbers that members share, the losses of the epoch, and the clock.

    Readers are known by their keys. One that had ended is passed over, one that is not passed is dropped; a member of
    which no reader is passed, ended or not, is left out, which changes the width and so the last bits of the others.
    """
    with fitting():
        members, numbers, kept = _match(state, passed)
        step = int(state["step"])
        ends = [steps * reader.config.epochs for member in members for reader in member.readers]
        if state["steps"] != steps or not 0 < step < min(ends, default=math.inf):
            raise CheckpointError(
                f"it is at step {step} with {state['steps']} an epoch, "
                f"the trainings take {sorted({*ends})} with {steps} an epoch"
            )
        if members:
            model.keep([member.trajectory for member in members], [member.config.seed for member in members])
            model.restore(state["model"], numbers)
        losses = state["losses"][:, numbers].to(device)
        if len(losses) != step % steps or "cpu" not in state["random"]:
            raise CheckpointError(f"it has {len(losses)} losses at step {step} with {steps} an epoch")
        clock = Clock(float(state["seconds"]))
        for reader, saved in kept:  # at last, for the readers are as they were when something does not fit
            reader.metrics.update(saved["figures"])
            reader.tracker.restore(saved)
            reader.share, reader.kept = saved["share"], saved.get("kept")
        return members, step, int(state["seed"]), [*losses.unbind()], clock


def _match(
    state: Mapping[str, Any], passed: Sequence[Member]
) -> tuple[list[Member], list[int], list[tuple[TrialReader, Mapping[str, Any]]]]:
    """The members to go on with, their places in the state, and what the state has about each of their readers."""
    indices = {reader.key: index for index, member in enumerate(passed) for reader in member.readers}
    readers = {reader.key: reader for member in passed for reader in member.readers}
    if len(readers) < sum(len(member.readers) for member in passed):
        raise CheckpointError("the keys of readers must be unique")
    unknown = readers.keys() - {key for keys in state["trajectories"] for key in keys}
    if unknown:  # which must not be taken for ended
        raise CheckpointError(f"it knows nothing of {', '.join(sorted(unknown))}")
    members: list[Member] = []
    numbers: list[int] = []
    kept: list[tuple[TrialReader, Mapping[str, Any]]] = []
    for number, saved in enumerate(state["members"]):
        found = {indices[key] for key in state["trajectories"][saved["trajectory"]] if key in indices}
        if len(found) > 1 or found & {member.trajectory for member in members}:
            raise CheckpointError("its trajectories are others")
        for index in found:
            going_on = [(readers[about["key"]], about) for about in saved["readers"] if about["key"] in readers]
            members.append(Member(passed[index].config, [reader for reader, _ in going_on], index))
            numbers.append(number)
            kept += going_on
    return members, numbers, kept


def _epochs(config: TrialConfig) -> int:
    return config.epochs


def epoch_factors(configs: Sequence[TrialConfig], epoch: int, steps: int) -> Tensor:
    """The schedules' factors on the learning rates in one epoch: float64 [steps, configs]."""
    columns: dict[object, Tensor] = {}
    horizons = [config.epochs if looks_at_horizon(config.schedule) else None for config in configs]
    keys = [(one.schedule.model_dump_json(), horizon) for one, horizon in zip(configs, horizons, strict=True)]
    for key, config in zip(keys, configs, strict=True):
        if key not in columns:
            first, last = (epoch - 1) * steps, math.inf if key[1] is None else config.epochs * steps - 1
            # past its end a member trains on for nobody, and a schedule is not asked beyond its horizon
            values = [
                factor(config.schedule, int(min(first + step, last)), steps, config.epochs) for step in range(steps)
            ]
            columns[key] = torch.tensor(values, dtype=torch.float64)
    return torch.stack([columns[key] for key in keys], 1)


def _shrink(members: list[Member], model: StackedModel | SingleModel) -> list[Member]:
    """The members to go on with."""
    training = [index for index, member in enumerate(members) if member.readers]
    if len(training) > SHRINK * len(members):
        return members
    kept = [members[index] for index in training]
    model.keep(training, [member.config.seed for member in kept])
    return kept


def _stops(members: Sequence[Member], epoch: int, steps: int) -> set[int]:
    """The updates of an epoch after which somebody is to be measured; after the last one, losses are looked at, too:
    they are kept for one epoch only, and the first that is not finite is to be named."""
    begun, done = (epoch - 1) * steps, epoch * steps
    stops = {done}
    for every in {reader.every(steps) for member in members for reader in member.readers}:
        stops.update(range(begun - begun % every + every, done + 1, every))
    return stops


def _fail_members(
    members: Sequence[Member], model: StackedModel | SingleModel, losses: Tensor, step: int, steps: int, clock: Clock
) -> None:
    """Freezes the members that have diverged. `losses` are those of this epoch, [updates, K]."""
    finite = losses.isfinite().all(0).tolist()
    for index, member in enumerate(members):
        if member.readers and not finite[index]:
            clock.divide(members)
            model.freeze(index)
            for reader in _leave(member, member.readers):
                _give(reader, diverged(reader.config, losses[:, index], step, steps, _timed(reader, clock)), clock)


def _measure(
    members: Sequence[Member],
    model: StackedModel | SingleModel,
    data: Data,
    losses: Tensor,
    factors: Tensor,
    step: int,
    clock: Clock,
) -> Evaluated | None:
    """Measures the members and reports to the readers that are due; a reader that answers STOP leaves KILLED, and one
    with a metric that is no finite number leaves FAILED.

    Args:
        losses: of this epoch, [updates, K].
        factors: of the schedules at this step, [K].

    Returns:
        What was measured; None if no reader is due.
    """
    steps = data.steps_per_epoch(members[0].config.batch_size, members[0].config.accumulate)
    due = [(index, r) for index, member in enumerate(members) for r in member.readers if r.is_due(step, steps)]
    if not due:
        return None
    only = {index for index, _ in due}
    predicted: list[Tensor] = []
    used = any(reader.may_keep(step, steps) for _, reader in due)
    measured = model.evaluate(data.evaluation, predicted if used else None, only)
    evaluated = Evaluated(measured, predicted)
    best: list[tuple[int, TrialReader]] = []
    for index, reader in due:
        config, metrics = reader.config, reader.metrics
        by_epoch = config.evaluate_every == "epoch"
        metrics["train/loss"] = float(losses[:, index].mean() if by_epoch else losses[-1, index])
        update_metrics(config, measured[index], metrics)
        if (undefined := undefined_metric(measured[index])) is not None:
            clock.divide(members)
            for one in _leave(members[index], [reader]):
                name = f"{config.selecting_part}/{undefined}"
                _give(one, unmeasurable(name, step, _timed(one, clock)), clock)
            continue
        if reader.tracker.is_best(metrics):
            best.append((index, reader))
        reported = {**metrics, "train/lr": config.optimizer.lr * float(factors[index])}
        total = steps * config.epochs
        verdict = reader.report(Measurement(-(-step // steps), step, total, reported))
        if verdict is Verdict.STOP and step < total:
            clock.divide(members)
            for one in _leave(members[index], [reader]):
                _give(one, killed(step, total), clock)
    if best:
        clock.divide(members)
        _keep(best, model, data, clock, evaluated)
    return evaluated


def _keep(
    chosen: Sequence[tuple[int, TrialReader]],
    model: StackedModel | SingleModel,
    data: Data,
    clock: Clock,
    evaluated: Evaluated | None,
) -> None:
    """Sets `kept` of some readers to the weights, the metrics and the predictions that their members have now.

    Args:
        chosen: the readers, each with the index of its member.
        evaluated: what was just measured, on the held-out data if there are any, else on the test data.
    """
    with clock.stopped():
        held_out, tested = (evaluated, None) if len(data.held_out) else (None, evaluated)
        if tested is None and data.test_count:
            predicted: list[Tensor] = []
            tested = Evaluated(model.evaluate(data.test, predicted, {index for index, _ in chosen}), predicted)
        predictions = None if tested is None else tested.predictions()
        held_out_predictions = None if held_out is None else held_out.held_out_predictions()
        for index, reader in chosen:
            of_test = {} if tested is None else {f"test/{name}": value for name, value in tested.metrics[index].items()}
            reader.kept = {
                "figures": {**reader.metrics, **of_test},
                "weights": model.weights(index),
                "predictions": None if predictions is None else predictions[index].clone(),
                "held_out_predictions": None if held_out_predictions is None else held_out_predictions[index].clone(),
            }


def _end_trials(
    members: Sequence[Member],
    model: StackedModel | SingleModel,
    data: Data,
    step: int,
    clock: Clock,
    evaluated: Evaluated | None,
) -> None:
    """Lets the readers leave that are at their end; those that have kept no best measurement are tested, unless they
    were just measured on the test data, see `_keep`."""
    steps = data.steps_per_epoch(members[0].config.batch_size, members[0].config.accumulate)
    ending = [(n, r) for n, member in enumerate(members) for r in member.readers if r.is_at_end(step, steps)]
    if not ending:
        return
    clock.divide(members)
    if untested := [(index, reader) for index, reader in ending if reader.kept is None]:
        _keep(untested, model, data, clock, evaluated)
    for index, reader in ending:
        _leave(members[index], [reader])
        assert reader.kept is not None
        metrics = _timed(reader, clock)
        _give(reader, finished(reader.config, reader.kept, reader.tracker, step, steps, metrics), clock)


def _prune(members: Sequence[Member], leaving: Collection[str], clock: Clock) -> None:
    """Lets the readers leave that a pruner has chosen.

    Args:
        leaving: their keys.
    """
    clock.divide(members)
    for member in members:
        for reader in _leave(member, [one for one in member.readers if one.key in leaving]):
            _give(reader, pruned(_timed(reader, clock)), clock)


def _keys(members: Sequence[Member]) -> set[str]:
    """Returns the keys of those that have not ended."""
    return {reader.key for member in members for reader in member.readers}


def _kill(members: Sequence[Member], step: int, steps: int, clock: Clock) -> None:
    """Lets everybody leave who is left."""
    for member in members:
        for reader in _leave(member, member.readers):
            _give(reader, killed(step, steps * reader.config.epochs), clock)


def _leave(member: Member, readers: Sequence[TrialReader]) -> list[TrialReader]:
    """Takes readers out of a member; gives them back."""
    leaving = list(readers)
    member.readers = [reader for reader in member.readers if reader not in leaving]
    return leaving


def _timed(reader: TrialReader, clock: Clock) -> dict[str, float]:
    reader.metrics.update(train_seconds=clock.seconds(), train_seconds_share=reader.share)
    return reader.metrics


def _give(reader: TrialReader, outcome: Outcome, clock: Clock) -> None:
    with clock.stopped():
        reader.end(outcome)
