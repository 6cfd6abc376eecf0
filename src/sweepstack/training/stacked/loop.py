"""The stacked trainer: many trajectories at once, each read by one or more trials at their own ends.

Every trial ends where the plain trainer takes it, within rounding: the same initial weights, batches, steps and
measurements; `trainer.train` is the reference, and the tests compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sweepstack.config.schema import TrialConfig
from sweepstack.schedules import factor, looks_at_horizon
from sweepstack.training.checkpoint import NEVER, CheckpointManager, fitting
from sweepstack.training.data.source import Data
from sweepstack.training.module_state import Unkept
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
from sweepstack.training.stacked.members import Clock, Member, TrialReader, give, keys_of, leave, timed
from sweepstack.training.stacked.model import StackedModel
from sweepstack.training.stacked.resume import resume_stack, state_of
from sweepstack.training.stacked.single_model import SingleModel
from sweepstack.training.updates import in_groups
from sweepstack.trial import MOST_AXES, Measurement, Verdict

SHRINK = 0.75
"""A stack goes on with the members that still train once these are at most so many of it. A member that leaves changes
the width, and with it the last bits of the others; one that stays frozen costs its part of every step."""


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
            readers that have not ended end KILLED. Training resumes from its `state`, see `resume_stack`.
        prune: called once all readers that are due have reported; returns the keys of those that leave PRUNED. Their
            state is kept for them, and the stack gets narrower.
        pause: called with the keys of those that are left then; returns whether these go on in another stack. If so,
            their state is saved and their readers get PRUNED, which the caller must not take for their outcome.

    Raises:
        CheckpointError: the keeper's state does not fit. The model cannot be used any more; the readers can.
    """
    members = [
        Member(max((reader.config for reader in readers), key=lambda config: config.epochs), [*readers], number)
        for number, readers in enumerate(trajectories)
    ]
    first = members[0].config
    steps = data.steps_per_epoch(first.batch_size, first.accumulate)
    step, seed = 0, first.seed
    losses: list[Tensor] = []  # of this epoch; on the device, for looking at one would wait for it
    clock = Clock()
    if checkpoints.state is not None:
        members, step, seed, losses, clock = resume_stack(checkpoints.state, members, model, steps, data.device)
        if checkpoints.state.get("paused") and pause(keys_of(members)):
            _prune(members, keys_of(members), clock)
            return

    def save(pruned_at: int | None = None, paused: bool = False) -> bool:
        clock.divide(members)
        position = {"steps": steps, "step": step, "seed": seed, "seconds": clock.seconds()}
        recent = torch.stack(losses)[: step % steps].cpu().clone()  # of an epoch that is done none is needed
        random = random_state(data.device)
        try:
            trained = state_of(trajectories, members, model)
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
                left = keys_of(members) - {*leaving}
                pauses = pause(left)
                if pauses or len(left) < len(keys_of(members)):
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
            for reader in leave(member, member.readers):
                give(reader, diverged(reader.config, losses[:, index], step, steps, timed(reader, clock)), clock)


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
            for one in leave(members[index], [reader]):
                name = f"{config.selecting_part}/{undefined}"
                give(one, unmeasurable(name, step, timed(one, clock)), clock)
            continue
        if reader.tracker.is_best(metrics):
            best.append((index, reader))
        reported = {**metrics, "train/lr": config.optimizer.lr * float(factors[index])}
        total = steps * config.epochs
        verdict = reader.report(Measurement(-(-step // steps), step, total, reported))
        if verdict is Verdict.STOP and step < total:
            clock.divide(members)
            for one in leave(members[index], [reader]):
                give(one, killed(step, total), clock)
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
        leave(members[index], [reader])
        assert reader.kept is not None
        metrics = timed(reader, clock)
        give(reader, finished(reader.config, reader.kept, reader.tracker, step, steps, metrics), clock)


def _prune(members: Sequence[Member], leaving: Collection[str], clock: Clock) -> None:
    """Lets the readers leave that a pruner has chosen.

    Args:
        leaving: their keys.
    """
    clock.divide(members)
    for member in members:
        for reader in leave(member, [one for one in member.readers if one.key in leaving]):
            give(reader, pruned(timed(reader, clock)), clock)


def _kill(members: Sequence[Member], step: int, steps: int, clock: Clock) -> None:
    """Lets everybody leave who is left."""
    for member in members:
        for reader in leave(member, member.readers):
            give(reader, killed(step, steps * reader.config.epochs), clock)
