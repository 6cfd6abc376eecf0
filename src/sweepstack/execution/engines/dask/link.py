"""The connection of a command to a Dask cluster. It outlives interruptions of the scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
import threading
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from sweepstack.error_log import log_traceback
from sweepstack.errors import UserError, one_line
from sweepstack.execution.engines.channel import versions
from sweepstack.execution.engines.dask import relay
from sweepstack.execution.engines.dask.cluster import CONNECT_SECONDS, UnreachableError, connect
from sweepstack.paths import began_in

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

QUERY_SECONDS = 1.0
"""Seconds between two queries about which workers the cluster has."""
ANSWER_SECONDS = 10.0
"""Seconds in which a worker must answer a question that it can answer at once."""
LEAST_PATIENCE = 30.0
"""Seconds for which a scheduler may be unreachable, unless `engine.lease` is longer."""


class LinkDown(Exception):  # noqa: N818 -- a state, not a mistake
    """The scheduler or a worker cannot be reached now."""


class Link:
    """A connection to a cluster, in a thread of its own. Its coroutines run there.

    Args:
        address: the address of the scheduler.
        security: its certificates; None without TLS.
        lease: seconds without a sign of life after which a worker counts as lost.

    Raises:
        UserError: the scheduler does not answer.
    """

    def __init__(self, address: str, security: Security | None, lease: float) -> None:
        self.address, self._security, self._lease = address, security, lease
        self.token = secrets.token_hex(8)
        """Names this command to the workers."""
        self.client: Client | None = None
        """None while the scheduler cannot be reached."""
        self.threads: dict[str, int] = {}
        """The workers of the cluster that can train, each with its number of threads."""
        self.left_out: set[str] = set()
        """The other ones."""
        self.notes: list[str] = []
        """Lines for the user that nobody has shown yet."""
        self.has_news = threading.Event()
        """Set when a worker has handed something over, or cannot any more."""
        self._greeted: set[str] | None = None
        """Workers that can train, as far as they have said; None before the first stack is submitted."""
        self.dashboard = ""
        """The address of the cluster's dashboard."""
        self.failure: UserError | None = None
        """Why nothing can be trained any more."""
        self.begun: dict[str, asyncio.Future[Mapping[str, Any]]] = {}
        """For each task that was submitted, what it says when it begins."""
        own = [path for path in sys.path if path and not path.startswith((sys.prefix, sys.base_prefix))]
        paths = [str(began_in()), *(path for path in own if "-packages" not in path)]
        self.settings: dict[str, Any] = {
            "token": self.token,
            "lease": lease,
            "versions": versions(),
            "folder": str(began_in()),
            "paths": paths,
        }
        """What the workers must know of this command."""
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_log)
        self._background: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="sweepstack-dask")
        self._thread.start()
        try:
            self.do(self._open())
        except BaseException:
            self.close()
            raise
        self.spawn(self._watch())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine in the thread of the connection, and returns its result.

        Args:
            work: the coroutine.
        """
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Begins to run a coroutine in the thread of the connection.

        Args:
            work: the coroutine.
        """
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def later(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """The same for a caller in that thread."""
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _open(self, seconds: float = CONNECT_SECONDS) -> None:
        client = await connect(self.address, self._security, seconds)
        client.subscribe_topic(self.token, self._hear)
        try:
            await self.update(client)
        except BaseException:
            await client.close()
            raise
        self.client, self._comm = client, client.scheduler_comm
        with contextlib.suppress(LookupError):  # it has none
            self.dashboard = str(client.dashboard_link)

    @property
    def suited(self) -> list[str] | None:
        """The workers that can train; None if all can."""
        return [*self.threads] if self.left_out else None

    def greet(self) -> None:
        """Prepares the workers for this command, so that they load PyTorch before the first stack comes.

        Raises:
            UserError: one of them cannot train.
        """
        if self._greeted is None:
            self._greeted = set()
            if (client := self.client) is not None:  # else those that are found again are greeted
                for error in self.do(self._greet(client, [*self.threads])).values():
                    raise error

    async def update(self, client: Client) -> None:
        """Notices which workers have come and gone. Those that come later and cannot train are left out.

        Args:
            client: the client of the scheduler.
        """
        workers = dict(await asyncio.wait_for(client.nthreads(), ANSWER_SECONDS))
        self.left_out &= workers.keys()
        self.threads = {worker: threads for worker, threads in workers.items() if worker not in self.left_out}
        if self._greeted is not None:
            come = [worker for worker in self.threads if worker not in self._greeted]
            for worker, error in (await self._greet(client, come)).items():
                self.leave_out(worker, error)

    def leave_out(self, worker: str, error: UserError) -> None:
        """Gives no stacks to a worker any more. If no worker could train yet, the command ends with the error.

        Args:
            worker: its address.
            error: why it cannot train.
        """
        if worker not in self.left_out:
            self.left_out.add(worker)
            self.threads.pop(worker, None)
            self.notes.append(f"The Dask worker {worker} is left out: {error}.")
            if not self._greeted:
                self.failure = error

    async def _greet(self, client: Client, workers: list[str]) -> dict[str, UserError]:
        """Prepares workers for this command; returns those that cannot train, and why."""
        if not workers:
            return {}
        found: dict[str, UserError] = {}
        answers: dict[str, Any] = {}
        with contextlib.suppress(OSError):  # such as a worker that does not answer: its first task does that, too
            greeting = client.run(relay.greet, self.settings, workers=workers, on_error="return")
            answers = await asyncio.wait_for(greeting, ANSWER_SECONDS)
        for worker, answer in answers.items():
            if isinstance(answer, ImportError):
                rule = f"a Dask worker must have sweepstack, {worker} has not ({one_line(answer)})"
                found[worker] = UserError(rule, remedy='install it there: pip install "sweepstack[dask]"')
            elif isinstance(answer, str) and answer:
                found[worker] = unlike(answer)
        if self._greeted is not None:
            self._greeted.update(worker for worker in workers if worker not in found)
        return found

    async def _hear(self, event: tuple[Any, Mapping[str, Any]]) -> None:
        """Takes what a task says when it begins."""
        _, message = event
        begun = self.begun.get(message["key"])
        if begun is not None and not begun.done():
            begun.set_result(message)
        else:  # nobody waits for it any more, or the scheduler has begun it again
            self.later(self.notify(message["worker"], "end", key=message["key"]))

    async def _watch(self) -> None:
        """Notices which workers come and go, and connects again when the scheduler is gone."""
        pinged = time.monotonic()
        try:
            while self.failure is None:
                await asyncio.sleep(QUERY_SECONDS)
                try:
                    assert self.client is not None
                    if self.client.status != "running" or self.client.scheduler_comm is not self._comm:
                        raise LinkDown
                    await self.update(self.client)
                    if time.monotonic() - pinged > self._lease / 6:
                        pinged = time.monotonic()
                        for worker in self.threads:
                            self.later(self.notify(worker, "ping"))
                except Exception as error:
                    if not isinstance(error, OSError | LinkDown):
                        log_traceback(error)
                    await self._reconnect()
        except Exception as error:
            log_traceback(error)
        finally:  # nobody would notice else
            self.failure = self.failure or self._unreachable()

    async def _reconnect(self) -> None:
        """Connects again; notes the failure if that is impossible."""
        client, self.client = self.client, None
        if client is not None:
            self.later(_close(client))
        until = time.monotonic() + max(self._lease, LEAST_PATIENCE)
        while self.client is None:
            try:
                await self._open(2.0)
            except Exception as error:
                if not isinstance(error, UnreachableError | OSError):  # a timeout is an OSError
                    log_traceback(error)
                if time.monotonic() > until:
                    self.failure = self._unreachable()
                    return
                await asyncio.sleep(QUERY_SECONDS)

    def _unreachable(self) -> UnreachableError:
        return UnreachableError(
            f"the Dask scheduler must answer, it has not for {max(self._lease, LEAST_PATIENCE):g} s",
            self.address,
            "start it and its workers; the same command goes on from here",
        )

    async def call(self, worker: str, what: str, **values: Any) -> dict[str, Any]:
        """Asks a worker, with the details as keywords.

        Args:
            worker: its address.
            what: the question; see the handlers of `relay`.

        Raises:
            LinkDown: it cannot be reached.
        """
        if self.client is None:
            raise LinkDown
        message = {"op": f"sweepstack-{what}", "token": self.token, **values}
        try:
            answer = await asyncio.wait_for(self.client.scheduler.proxy(worker=worker, msg=message), ANSWER_SECONDS)
        except OSError as error:  # so is a timeout
            raise LinkDown from error
        return dict(answer)

    async def notify(self, worker: str, what: str, **values: Any) -> None:
        """Asks a worker for something, if it can be reached.

        Args:
            worker: its address.
            what: see `call`.
        """
        try:
            await self.call(worker, what, **values)
        except Exception as error:
            if not isinstance(error, LinkDown):
                log_traceback(error)

    def close(self) -> None:
        """Ends all that this command has started on the workers, and the connection."""
        if self._thread.is_alive():
            closing = self.spawn(self._close())
            try:
                closing.result(5.0)
            except Exception as error:
                log_traceback(error)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(1.0)

    async def _close(self) -> None:
        if self.client is not None:
            await asyncio.gather(*(self.notify(worker, "close") for worker in self.threads))
            await self.client.close()
        for task in asyncio.all_tasks(self._loop) - {asyncio.current_task()}:
            task.cancel()


async def _close(client: Client) -> None:
    await client.close()  # what it returns is no coroutine if it is closed already


def unlike(what: str) -> UserError:
    """Returns the mistake of a worker whose versions differ.

    Args:
        what: see `relay.greet`.
    """
    return UserError(f"a Dask worker must have the versions of the command: {what}", remedy="install the same there")


def _log(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    if isinstance(error := context.get("exception"), Exception):
        log_traceback(error)
