"""Finds the fastest way of training on this machine: times a few steps of each way and remembers the result."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sweepstack.blame import contained
from sweepstack.config.code_digest import digest
from sweepstack.config.schema import RunConfig, TrialConfig
from sweepstack.errors import UserError, one_line
from sweepstack.files.replacing import replacing
from sweepstack.planning.compatibility import stack_key
from sweepstack.training import models, random_state
from sweepstack.training.data.inputs import Inputs, call, tensors_of
from sweepstack.training.data.source import EVALUATED, Batch, Data
from sweepstack.training.hardware import ALL_THREADS, choose_threads, memory_budget
from sweepstack.training.stacked import build
from sweepstack.training.stacked.model import Batches, Unstackable
from sweepstack.training.tasks.built import BuiltTask
from sweepstack.training.trainer import autocast_of, descend, evaluate
from sweepstack.trial import StackSettings

WIDTHS = (256, 64, 16)
"""Widths that are tried besides the full one: a narrower stack fits into the processor's cache."""
MAX_WIDTH = 1024
"""The widest stack that is tried. A wider one would not be faster, and its memory would grow with the sweep."""
NARROW = 4
"""The width that is tried first."""
HOPELESS = 1.5
"""Ratio of a member's time in a stack of this width to its time alone, above which no wider stack is tried."""
TIMED_ROUNDS = 2
"""Rounds through all ways, so that a short load of the machine does not decide."""
WARM_UP_STEPS = 2
"""Steps at the beginning of a measurement that do not count."""
TIMED_STEPS = 8
"""Steps that count in a measurement."""
BUDGET_SECONDS = 0.15
"""Seconds after which three counted steps are enough. A single step that takes longer is enough by itself."""
NARROWER_PAYS_BELOW = 0.95
"""Ratio of times below which a narrower stack is preferred, because a wide stack shares more work."""
UNTIMED = "it cannot be timed"
"""How the reason of a choice begins that was made without timing, because of an error."""
THREADS_PAY_BELOW = 0.8
"""Ratio of times below which several threads are preferred: two threads take twice as long as one while another process
uses a core."""


class Beside(NamedTuple):
    """Workers that train side by side."""

    threads: int
    """The number of threads of each."""
    parts: int
    """The number of workers that can train trajectories of one `stack_key` at once."""


_known_epochs: dict[str, float] = {}
"""The seconds of an epoch of trials that are trained alone, as this process has measured or read them."""


def choose(
    configs: Sequence[TrialConfig],
    run: RunConfig,
    data: Data,
    remembered: Path | None,
    wait_for_quiet: Callable[[], None] = lambda: None,
    estimate: bool = False,
    beside: Beside | None = None,
    count: int | None = None,
) -> StackSettings:
    """Chooses the fastest way to train trajectories of one `stack_key` on this machine.

    The choice changes how results round. It is remembered, so that the same sweep is trained in the same way again.

    Args:
        configs: one for each trajectory.
        run: how all of them are run.
        data: what they train on.
        remembered: the file of earlier choices, which is read first and gets the new one; None: measure and write
            nothing.
        wait_for_quiet: called before the first measurement.
        estimate: measure even if there is only one way, to know the time of an epoch.
        beside: how many workers train side by side; None: the stacks are trained one after the other.
        count: the number of trajectories if `configs` are only the first `MAX_WIDTH` of them; None: as many.
    """
    config, count = configs[0], count or len(configs)
    threads = choose_threads(config, run.threads)
    if beside is not None:
        threads = run.threads or beside.threads
    key = key_of(configs, run, data, beside, count=count)
    known = _read_cache(remembered)
    if not run.launch.stack or count == 1:
        seconds = 0.0
        if estimate and config.trainer is None:
            seconds = _known_epochs.get(key) or known.get(key, {}).get("epoch_seconds", 0.0)
            if not seconds:
                with contextlib.suppress(Exception), contained():  # the trainer will report it, with its traceback
                    seconds = _plain_epoch(config, data, threads)
                _write_cache(remembered, {**known, key: {"epoch_seconds": seconds}})
            _known_epochs[key] = seconds
        return StackSettings(1, threads, seconds, "alone" if count == 1 else "launch.stack is false")
    if (found := _settings_in(known, key)) is not None:
        return found
    wait_for_quiet()
    try:
        with random_state.preserved(), contained():
            choice = _time_all_ways(configs, count, run, data, threads, beside)
    except Unstackable as why:
        choice = StackSettings(1, threads, _plain_epoch(config, data, threads) if estimate else 0.0, str(why))
    except Exception as error:  # it does not train alone either; the trainer will report it, with its traceback
        return StackSettings(1, threads, 0.0, f"{UNTIMED}: {one_line(error)}")
    _write_cache(remembered, {**known, key: asdict(choice)})
    return choice


def recall(remembered: Path, key: str) -> StackSettings | None:
    """Returns a choice of an earlier command; None if there is none.

    Args:
        remembered: the file of earlier choices.
        key: see `key_of`.
    """
    return _settings_in(_read_cache(remembered), key)


def remember(remembered: Path, choices: Mapping[str, StackSettings]) -> None:
    """Remembers choices that others have made, by their keys; but not what could not be timed.

    Args:
        remembered: the file of earlier choices.
        choices: the choices by their keys, see `key_of`.
    """
    timed = {key: asdict(choice) for key, choice in choices.items() if not choice.reason.startswith(UNTIMED)}
    _write_cache(remembered, {**_read_cache(remembered), **timed})


def _settings_in(known: Mapping[str, Mapping[str, Any]], key: str) -> StackSettings | None:
    with contextlib.suppress(KeyError, TypeError):  # it is not known, or another version of sweepstack wrote it
        return StackSettings(**known[key])
    return None


def _time_all_ways(
    configs: Sequence[TrialConfig],
    count: int,
    run: RunConfig,
    data: Data,
    plain_threads: int,
    beside: Beside | None,
) -> StackSettings:
    config = configs[0]
    parts = 1 if beside is None else min(beside.parts, count)
    thread_counts = _thread_counts(run, data) if beside is None else [plain_threads]
    forced = run.launch.stack == "force"
    may_refuse = run.launch.width is None and not forced
    alone = _plain_epoch(config, data, plain_threads)
    per_step = 1e6 / data.steps_per_epoch(config.batch_size)
    narrow = min(NARROW, count)
    seconds = min(_stacked_epoch(configs[:narrow], data, threads) for threads in thread_counts)
    if may_refuse and seconds > HOPELESS * narrow * alone:  # a wide one would take long to time
        reason = f"{seconds / narrow * per_step:.0f} us a step and trial stacked, {alone * per_step:.0f} us alone"
        return StackSettings(1, plain_threads, alone, reason)
    fitting = _fitting_width(config, data)
    widest = min(count, fitting) if run.launch.width else min(math.ceil(count / parts), fitting, MAX_WIDTH)
    wanted = [run.launch.width] if run.launch.width else [count, *WIDTHS]
    widths = sorted({_balanced(count, min(width, widest)) for width in wanted}, reverse=True)
    times: dict[tuple[int, int], float] = {}
    for _ in range(TIMED_ROUNDS):
        for width, threads in itertools.product(widths, thread_counts):
            seconds = _stacked_epoch(configs[:width], data, threads)
            times[width, threads] = min(seconds, times.get((width, threads), math.inf))
    tries = [StackSettings(width, threads, seconds, "") for (width, threads), seconds in times.items()]

    def handicapped(choice: StackSettings) -> float:
        wide, single = choice.width == widths[0], choice.threads == 1
        return (
            _total(choice, count, parts)
            / (1.0 if wide else NARROWER_PAYS_BELOW)
            / (1.0 if single else THREADS_PAY_BELOW)
        )

    best = min(tries, key=handicapped)
    reason = (
        f"{_total(best, count) / count * per_step:.0f} us a step and trial stacked, {alone * per_step:.0f} us alone"
    )
    reason = f"launch.stack is force: {reason}" if forced else reason
    if may_refuse and alone * math.ceil(count / parts) < _total(best, count, parts):
        return StackSettings(1, plain_threads, alone, reason)
    narrow_why = f", {best.width} fit into memory" if best.width == _balanced(count, fitting) < count else ""
    return StackSettings(best.width, best.threads, best.epoch_seconds, reason + narrow_why)


def _total(choice: StackSettings, count: int, parts: int = 1) -> float:
    """Returns the seconds that one epoch of all members takes.

    Args:
        choice: the settings of their stacks.
        count: the number of members.
        parts: the number of stacks that are trained at once.
    """
    return math.ceil(math.ceil(count / choice.width) / parts) * choice.epoch_seconds


def _balanced(count: int, width: int) -> int:
    """Returns the largest width when `count` members are split evenly into stacks of at most `width`."""
    return math.ceil(count / math.ceil(count / max(width, 1)))


def _thread_counts(run: RunConfig, data: Data) -> list[int]:
    if run.threads is not None:
        return [run.threads]
    return [1] if data.device.type == "cuda" or ALL_THREADS == 1 else [ALL_THREADS, 1]


def _stacked_epoch(configs: Sequence[TrialConfig], data: Data, threads: int) -> float:
    torch.set_num_threads(threads)
    batch_size = configs[0].batch_size
    try:
        model = build.build_stacked_model(configs, configs[0].dataset.shape or (), data.device, data.some())
        model.set_factors(torch.ones(WARM_UP_STEPS + TIMED_STEPS, len(configs), dtype=torch.float64))
        step = _seconds_per_step(model.step, data.stacked_batches(batch_size, model.seeds, 1), data)
        return step * data.steps_per_epoch(batch_size) + _evaluation(
            lambda batches: model.evaluate(batches, only=()), data
        )
    except Unstackable:
        raise
    except Exception as error:  # vmap does not support every operation and every gradient
        raise Unstackable(f"torch.func.vmap cannot train it: {one_line(error)}") from error


def _plain_epoch(config: TrialConfig, data: Data, threads: int) -> float:
    torch.set_num_threads(threads)
    model = models.build_model(config.model).to(data.device)
    autocast, task = autocast_of(config, data.device), BuiltTask(config, data.device)

    def step(images: Inputs, labels: Tensor) -> None:
        with autocast:
            loss = task.batch_loss(model, images, labels)
        descend(model, loss, 1e-6, config.clip_norm)

    seconds = _seconds_per_step(step, data.batches(config.batch_size, 0, 1), data)
    return seconds * data.steps_per_epoch(config.batch_size) + _evaluation(
        lambda batches: evaluate(model, batches(EVALUATED), autocast, task, only=()), data
    )


def _evaluation(evaluate_on: Callable[[Batches], object], data: Data) -> float:
    """Estimates the seconds of one evaluation from its first chunk."""
    seen = 0

    def first(chunk: int) -> Iterable[Batch]:
        nonlocal seen
        images, labels = next(iter(data.evaluation(chunk)))
        seen = len(labels)
        yield images, labels

    began = time.perf_counter()
    evaluate_on(first)
    _synchronise(data.device)
    return (time.perf_counter() - began) * data.evaluated_count / seen


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _seconds_per_step(step: Callable[[Any, Tensor], object], batches: Iterable[Batch], data: Data) -> float:
    """Returns the seconds of the shortest step, because other work of the machine makes some steps longer.

    Where batches take work, because images are augmented or streamed, it is the median of steps with their batches:
    members of one seed share a batch, those of another need their own.
    """
    times: list[float] = []
    began = after = time.perf_counter()
    for number, (images, labels) in enumerate(batches):
        before = after if data.prepares_batches else time.perf_counter()
        step(images, labels)
        _synchronise(data.device)
        after = time.perf_counter()
        if number >= WARM_UP_STEPS or after - before > BUDGET_SECONDS:  # a long step needs no warm-up
            times.append(after - before)
        if len(times) == TIMED_STEPS or (
            after - began > BUDGET_SECONDS and (len(times) >= 3 or after - before > BUDGET_SECONDS)
        ):
            break
    shortest = statistics.median if data.prepares_batches else min
    return shortest(times) if times else after - before


def _fitting_width(config: TrialConfig, data: Data) -> int:
    """Returns how many members fit into memory with parameters, gradients, optimizer state and saved activations."""
    model = models.build_model(config.model).to(data.device)
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    images, _ = data.some(config.batch_size)
    size = sum(tensor.nbytes for tensor in tensors_of(images))
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        call(model, images)
    own = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    return max(1, memory_budget(data.device) // (6 * own + 3 * (kept + size)))


def key_of(
    configs: Sequence[TrialConfig],
    run: RunConfig,
    data: Data,
    beside: Beside | None = None,
    machine: str = "",
    count: int | None = None,
) -> str:
    """Returns a hash of everything that a choice depends on.

    Args:
        configs: see `choose`.
        run: see `choose`.
        data: see `choose`.
        beside: see `choose`.
        machine: the kind of machine; empty: this one.
        count: see `choose`.
    """
    here = torch.cuda.get_device_name(data.device) if data.device.type == "cuda" else f"{ALL_THREADS} threads"
    config = configs[0]
    seeds = len({config.seed for config in configs})
    numbers = sorted({name for one in configs for name, value in one.optimizer.keywords.items() if value})
    program = [importlib.metadata.version("sweepstack"), torch.__version__, digest(config)]
    key = stack_key(config.model_copy(update={"fold": None}), run)  # all folds take as long
    count = count or len(configs)
    parts = [key, count, seeds, numbers, run.launch.width, len(data.train), machine or here, program]
    parts += ["force"] if run.launch.stack == "force" else []
    parts += [[*beside]] if beside is not None else []
    return hashlib.sha1(json.dumps(parts).encode(), usedforsecurity=False).hexdigest()


def _read_cache(file: Path | None) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
    except (OSError, ValueError):  # the file does not exist yet, or is damaged; then everything is measured again
        return {}
    return content if isinstance(content, dict) else {}


def _write_cache(file: Path | None, content: dict[str, dict[str, Any]]) -> None:
    if file is None:
        return
    with contextlib.suppress(OSError, UserError):  # the folder may be read-only
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
