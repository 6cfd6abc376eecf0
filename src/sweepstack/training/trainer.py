"""The plain trainer: one trial, one screen, the reference for correctness."""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sweepstack.config.schema import TrialConfig
from sweepstack.schedules import factor
from sweepstack.training import models
from sweepstack.training.checkpoint import NEVER, CheckpointError, CheckpointManager, fitting
from sweepstack.training.data.inputs import Inputs, call
from sweepstack.training.data.source import Batch, Data
from sweepstack.training.module_state import Attributes, Unkept
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
from sweepstack.training.tasks.built import BuiltTask
from sweepstack.training.updates import Updater, in_groups
from sweepstack.trial import MOST_AXES, Measurement, OnMeasured, Outcome, Verdict

Autocast = torch.autocast | contextlib.nullcontext[None]


def train(config: TrialConfig, data: Data, report: OnMeasured, checkpoints: CheckpointManager = NEVER) -> Outcome:
    """Trains one trial and measures it: on the held-out part along the way, on the test data at the end.

    The result depends on `config` and `data` alone: initial weights on the seed, the order of batches and dropout on
    (seed, epoch). Sets the global random states of PyTorch, NumPy and Python.

    Args:
        report: called with a `Measurement` after every epoch, or every `config.evaluate_every` iterations, and at
            the end. `train/loss` is the mean over the epoch, or the loss of that iteration.
        checkpoints: keeps the state after an epoch when that is due, and whenever the training is stopped. Training
            resumes from its `state`, and ends bit for bit where an undisturbed one does. A state that no file can hold,
            see `Attributes`, is not kept.

    Returns:
        FINISHED with the metrics, those of the test among them, and the weights (on the CPU), at the end or where
        `early_stopping` ended it; with `keep_best` those of the best measurement. FAILED when a loss is not a finite
        number; KILLED when it was stopped, by `checkpoints` or by the verdict of `report`; PRUNED by that verdict, once
        its state is kept. `train_seconds` begins when the model and its optimizer are built.

    Raises:
        CheckpointError: the state of `checkpoints` does not fit.
    """
    steps = data.steps_per_epoch(config.batch_size, config.accumulate)
    total = steps * config.epochs
    by_epoch = config.evaluate_every == "epoch"
    every = steps if config.evaluate_every == "epoch" else config.evaluate_every
    warm_up(data.device)
    seed_all(config.seed)
    model = models.build_model(config.model).to(data.device).train()
    attributes = Attributes(model)
    autocast, task = autocast_of(config, data.device), BuiltTask(config, data.device)

    def loss_of(images: Inputs, targets: Tensor) -> Tensor:
        with autocast:
            return task.batch_loss(model, images, targets)

    updater, tracker = Updater(config, model, loss_of, task.weight), ObjectiveTracker(config)
    kept: dict[str, Any] | None = None  # see `tested`; only with `keep_best`
    metrics: dict[str, float] = {}
    losses: list[Tensor] = []  # since the last measurement; on the device, for looking at one would wait for it
    predicted: list[Tensor] = []  # for the held-out items, in the last measurement; empty while it trains on
    step, leaves = 0, False
    began = time.perf_counter()
    if checkpoints.state is not None:
        step, seconds = _resume(checkpoints.state, config, data, model, attributes, updater, tracker, metrics, losses)
        began -= seconds
        kept = checkpoints.state.get("kept")

    for epoch in range(step // steps + 1, config.epochs + 1):
        if tracker.ends_early:
            break
        seed_all(stream(config.seed, "dropout", epoch))
        done = step % steps  # of this epoch; none but where a training goes on that was stopped in the middle of one
        if done and checkpoints.state is not None:
            with fitting():
                set_random_state(checkpoints.state["random"], data.device)
        batches = data.batches(config.batch_size, config.seed, epoch, skip=done * config.accumulate)
        for group in in_groups(batches, config.accumulate):
            rate = factor(config.schedule, step, steps, config.epochs) * tracker.factor
            losses.append(updater.update(group, rate))
            step += 1
            if step % every == 0 or step == total:
                recent = torch.stack(losses)
                if not bool(recent.isfinite().all()):
                    _set_seconds(metrics, began)
                    return diverged(config, recent, step, steps, metrics, tracker.factor)
                metrics["train/loss"] = float(recent.mean() if by_epoch else recent[-1])
                with updater.averaged():
                    used = len(data.held_out) > 0 and tracker.may_keep(step == total)
                    measured = evaluate(model, data.evaluation(), autocast, task, predicted if used else None)
                    update_metrics(config, measured, metrics)
                    if (undefined := undefined_metric(measured)) is not None:
                        _set_seconds(metrics, began)
                        return unmeasurable(f"{config.selecting_part}/{undefined}", step, metrics)
                    if tracker.is_best(metrics):
                        paused = time.perf_counter()
                        kept = tested(model, data, autocast, task, metrics, predicted)
                        began += time.perf_counter() - paused
                reported = {**metrics, "train/lr": config.optimizer.lr * rate}
                verdict = report(Measurement(epoch, step, total, reported))
                if verdict is Verdict.STOP and step < total:
                    return killed(step, total)
                leaves = verdict is Verdict.PRUNE and step < total
                losses.clear()
                if tracker.ends_early:
                    break
                if step < total:
                    predicted.clear()

            if step < total and (checkpoints.stopping or leaves or (step % steps == 0 and checkpoints.due())):
                position = {"steps": steps, "step": step, "seconds": time.perf_counter() - began}
                random = random_state(data.device)
                recent = torch.stack(losses).cpu() if losses else torch.empty(0)
                try:
                    trained = {**state_of(model, attributes, updater.optimizer), **updater.state(), **tracker.state()}
                except Unkept as what:
                    checkpoints.cannot(str(what))
                else:
                    best = {} if kept is None else {"kept": kept}
                    state = {**position, **trained, **best, "figures": metrics, "losses": recent, "random": random}
                    checkpoints.save(state)
                if leaves:
                    _set_seconds(metrics, began)
                    return pruned(metrics)
                if checkpoints.stopping:
                    return killed(step, total)

    _set_seconds(metrics, began)
    if kept is None:
        with updater.averaged():
            kept = tested(model, data, autocast, task, metrics, predicted)
    return finished(config, kept, tracker, step, steps, metrics)


def tested(
    model: nn.Module,
    data: Data,
    autocast: Autocast,
    task: BuiltTask,
    metrics: Mapping[str, float],
    evaluated: Sequence[Tensor],
) -> dict[str, Any]:
    """Measures a model on the test data, if there are any.

    Args:
        model, data, autocast, task: see `evaluate`.
        metrics: its other metrics.
        evaluated: its predictions, as they are stored, for the held-out batches; see `MOST_AXES`.

    Returns:
        All that is kept of it, as a checkpoint can hold it: the metrics, copies of the weights, and the predictions for
        test data and for held-out data; None where there are no such data.
    """
    predicted: list[Tensor] = []
    measured = evaluate(model, data.test(), autocast, task, predicted) if data.test_count else {}
    return {
        "figures": {**metrics, **{f"test/{name}": value for name, value in measured.items()}},
        "weights": {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()},
        "predictions": torch.cat(predicted).cpu() if predicted else None,
        "held_out_predictions": torch.cat([*evaluated]).cpu() if evaluated and evaluated[0].ndim <= MOST_AXES else None,
    }


@functools.cache
def warm_up(device: torch.device) -> None:
    """An update of one number. The first one of a process imports parts of PyTorch and begins threads, which takes
    seconds; they are no time of the trial that happens to come first. No random number is drawn."""
    parameter = nn.Parameter(torch.zeros(1, device=device))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    (parameter * parameter).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _resume(
    state: Mapping[str, Any],
    config: TrialConfig,
    data: Data,
    model: nn.Module,
    attributes: Attributes,
    updater: Updater,
    tracker: ObjectiveTracker,
    metrics: dict[str, float],
    losses: list[Tensor],
) -> tuple[int, float]:
    """Brings everything to where it was when the state was kept; gives back the steps that were done and the seconds
    that they took."""
    steps = data.steps_per_epoch(config.batch_size, config.accumulate)
    with fitting():
        if state["steps"] != steps or not 0 < state["step"] < steps * config.epochs:
            raise CheckpointError(
                f"it is at step {state['step']} with {state['steps']} an epoch, "
                f"the training takes {steps * config.epochs} with {steps} an epoch"
            )
        restore(model, attributes, updater.optimizer, state)
        updater.restore(state)
        tracker.restore(state)
        metrics.update(state["figures"])
        losses.extend(state["losses"].to(data.device).unbind())
        if state["step"] % steps and "cpu" not in state["random"]:
            raise CheckpointError("it has no random state")
        return int(state["step"]), float(state["seconds"])


def descend(model: nn.Module, loss: Tensor, lr: float, clip_norm: float | None) -> None:
    """Updates a model without an optimizer, to time it or to try it. An optimizer would import `torch._dynamo`, which
    takes a second.

    Args:
        loss: of a batch, with its graph.
        lr: the learning rate.
        clip_norm: that of the config.
    """
    loss.backward()  # type: ignore[no-untyped-call]
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=-lr)
                parameter.grad = None


def state_of(model: nn.Module, attributes: Attributes, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All that an update changes: parameters, all buffers, plain attributes of the model, what the optimizer remembers.
    The tensors are not copied.

    Args:
        attributes: those of the model, from before it was trained.

    Raises:
        Unkept: an attribute holds what no file can hold.
    """
    kept = model.state_dict()
    others = {name: buffer for name, buffer in model.named_buffers() if name not in kept}
    return {
        "model": kept,
        "buffers": others,
        "attributes": attributes.state(),
        "optimizer": optimizer.state_dict(),
    }


def restore(
    model: nn.Module, attributes: Attributes, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Takes over copies of what `state_of` gave.

    Args:
        attributes: the plain attributes of the model.
        state: what `state_of` gave.

    Raises:
        LookupError, TypeError, ValueError, AttributeError, RuntimeError: it is of another model or optimizer.
    """
    attributes.restore(state.get("attributes", {}))  # version 0.1 kept none
    model.load_state_dict(state["model"])
    buffers = dict(model.named_buffers())
    for name, value in state["buffers"].items():
        buffers[name].copy_(value)
    remembered = copy.deepcopy(state["optimizer"])  # load_state_dict would train in the tensors it is given
    for values in remembered["state"].values():
        if isinstance(values.get("step"), Tensor):  # the one that it leaves where it is; it belongs on the CPU
            values["step"] = values["step"].cpu()
    optimizer.load_state_dict(remembered)


def _set_seconds(metrics: dict[str, float], began: float) -> None:
    """A trial on its own has all of its time to itself; in a stack the two differ."""
    metrics["train_seconds"] = metrics["train_seconds_share"] = time.perf_counter() - began


def autocast_of(config: TrialConfig, device: torch.device) -> Autocast:
    """What the forward pass runs under: bfloat16 where the config says so, else nothing."""
    bfloat16 = config.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else contextlib.nullcontext()


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    autocast: Autocast,
    task: BuiltTask,
    predicted: list[Tensor] | None = None,
    only: Collection[int] | None = None,
) -> dict[str, float]:
    """Returns the mean loss and the metrics of a model over batches of images and targets, by name.

    Args:
        model: the model.
        batches: what to evaluate on.
        autocast: what the forward pass runs under.
        task: the task of the config.
        predicted: receives the predictions of each batch, as they are stored; they stay on the device.
        only: see `Totals.metrics`.
    """
    training = model.training
    model.eval()
    totals = task.totals()
    for images, targets in batches:
        with autocast:
            outputs = call(model, images).float()
        predictions = task.add(totals, outputs, targets)
        if predicted is not None:
            predicted.append(predictions)
    model.train(training)
    return totals.metrics(only)[0]
