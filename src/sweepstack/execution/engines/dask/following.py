"""Follows a stack that a Dask worker trains: what the worker hands over goes to the folder of the assignment.

There it is read as what a worker of this machine has written; see `channel`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweepstack.error_log import log_traceback
from sweepstack.errors import StoreError, UserError, one_line
from sweepstack.execution.engines.channel import ASSIGNMENT, CONTROL, EVENTS, FILES, checkpoints_of
from sweepstack.execution.engines.dask import relay
from sweepstack.execution.engines.dask.link import Link, LinkDown, unlike
from sweepstack.files.inside import inside
from sweepstack.files.owner_only import make_folder, opener
from sweepstack.files.replacing import move_over
from sweepstack.journal.codec import decode_line

LONGEST_WAIT = 2.0
"""Seconds that a worker waits for news before it answers that there is none."""
QUERY_SECONDS = 0.2
"""Seconds between two queries about a task that has not begun, or to a worker that cannot be reached."""
END_SECONDS = 0.5
"""The longest time to wait until nothing is written any more."""
LATEST, PREVIOUS = relay.LATEST, "previous.pt"


class Gone(Exception):  # noqa: N818 -- a state, not a mistake
    """The worker cannot report any more; the message says why."""


class Following:
    """Follows one stack, in the thread of the connection.

    Args:
        link: the connection to the cluster.
        folder: the folder of the assignment on this machine.
        lease: seconds without a sign of life after which the worker counts as lost.
    """

    def __init__(self, link: Link, folder: Path, lease: float) -> None:
        self._link, self._folder, self._lease = link, folder, lease
        self._checkpoints = checkpoints_of(folder)
        self.gone: str | None = None
        """Why the worker cannot report any more."""
        self.failure: UserError | None = None
        """Why no worker can train it."""
        self._heard = 0.0
        self._is_over, self._ended = False, threading.Event()
        self._key = self._worker = ""
        self._task: Any = None
        self._begun = False
        self._offset = 0
        self._has: list[int] = []
        self._fetching: asyncio.Task[None] | None = None
        """Fetches a checkpoint."""
        self._control: Mapping[str, Any] = {"stop": ""}
        self._running = link.spawn(self._run())

    def heard(self) -> float:
        """When the last sign of life has come. A task that waits in the cluster, or a cluster that cannot be reached,
        needs none."""
        return self._heard if self._begun and self._link.client is not None else time.monotonic()

    def pass_control(self) -> None:
        """Passes the control file to the worker."""
        self._control = json.loads((self._folder / CONTROL).read_text(encoding="utf-8"))
        if self._begun:
            self._link.spawn(self._link.notify(self._worker, "read", key=self._key, **self._question(0.0)))

    def wait(self, seconds: float) -> None:
        """Waits until the worker has handed over everything.

        Args:
            seconds: the longest time to wait.
        """
        if self._begun and self._link.client is not None:
            self._ended.wait(max(0.0, seconds))

    def end(self) -> None:
        """Ends the training; nothing that comes later counts."""
        if not self._is_over:
            self._is_over = True
            self.gone = self.gone or "it was ended"
            self._running.cancel()
            self._ended.wait(END_SECONDS)  # then nothing is written to the folder any more

    async def _run(self) -> None:
        try:
            await self._begin()
            await self._follow()
        except Gone as gone:
            self.gone = str(gone)
        except UserError as error:
            self.failure = error
        except OSError as error:
            self.failure = StoreError(f"the journal cannot be written ({one_line(error)})", remedy="see to its disk")
        except Exception as error:
            log_traceback(error)
            self.gone = one_line(error)
        finally:
            self._is_over = True
            if self._fetching is not None:
                self._fetching.cancel()
            self._link.begun.pop(self._key, None)
            if self._worker:
                self._link.later(self._link.notify(self._worker, "end", key=self._key))
            if self._task is not None:
                self._task.release()  # the scheduler forgets it, whether it waits or runs
            self._ended.set()
            self._link.has_news.set()

    async def _begin(self) -> None:
        """Submits the task, waits until it begins, and sends the checkpoints of an earlier try."""
        content = (self._folder / ASSIGNMENT).read_bytes()
        while not self._worker:
            while (client := self._link.client) is None or (workers := self._link.suited) == []:
                await asyncio.sleep(QUERY_SECONDS)
            left_out = {*self._link.left_out}
            self._key = f"sweepstack-{self._folder.name}-{secrets.token_hex(4)}"
            begun = self._link.begun[self._key] = asyncio.get_running_loop().create_future()
            words, options = (self._link.settings, self._key, content), {"pure": False, "retries": 0}
            self._task = client.submit(relay.train, *words, key=self._key, workers=workers, **options)
            while not begun.done() and self._task.status not in ("cancelled", "error", "lost"):
                if self._link.client is not client or self._link.suited != workers:
                    break
                await asyncio.wait([begun], timeout=QUERY_SECONDS)
            if begun.done():
                self._take_begin(begun.result())
            elif self._task.status in ("error", "lost"):
                error = await _why(self._task)
                with contextlib.suppress(OSError):  # it cannot be reached
                    await self._link.update(client)
                if self._link.left_out <= left_out:  # it was not the first task of a worker that has just come
                    raise error
            if not self._worker:
                del self._link.begun[self._key]
                self._task.release()
        for name in (PREVIOUS, LATEST):
            if (file := self._checkpoints / name).exists():
                await self._send(file)
        self._has = (await self._call("go"))["has"]
        self._heard, self._begun = time.monotonic(), True

    def _take_begin(self, message: Mapping[str, Any]) -> None:
        if message["refused"]:
            self._link.leave_out(message["worker"], unlike(message["refused"]))
        else:
            self._worker = message["worker"]
            self._link.threads.setdefault(self._worker, 1)  # it may have come a moment ago

    async def _send(self, file: Path) -> None:
        with file.open("rb") as stream:
            while piece := stream.read(relay.PIECE):
                await self._call("put", name=file.name, offset=stream.tell() - len(piece), piece=piece)

    def _question(self, wait: float, ready: bool = False) -> dict[str, Any]:
        return {"offset": self._offset, "ready": ready, "has": self._has, "control": self._control, "wait": wait}

    async def _follow(self) -> None:
        """Takes all that the worker hands over."""
        wait = min(LONGEST_WAIT, self._lease / 6)
        while True:
            if (ready := self._fetching is None or self._fetching.done()) and self._fetching is not None:
                self._fetching.result()
                self._fetching = None
            news = await self._call("read", **self._question(wait, ready))
            lines, checkpoint = news.get("lines", b""), news.get("checkpoint")
            if (how := news.get("how")) is not None:
                last = lines[lines[:-1].rfind(b"\n") + 1 :]
                await self._take(lines[: len(lines) - len(last)])
                if checkpoint:
                    await self._fetch_checkpoint(checkpoint)
                elif not news["has_checkpoint"]:  # the worker has removed it
                    shutil.rmtree(self._checkpoints, ignore_errors=True)
                await self._take(last)
                raise Gone(how)
            await self._take(lines)
            if not news["has_process"]:
                self._heard = time.monotonic()
            if checkpoint:
                self._fetching = asyncio.create_task(self._fetch_checkpoint(checkpoint))

    async def _call(self, what: str, **values: Any) -> dict[str, Any]:
        """Asks the worker, and asks again until it can be reached."""
        while True:
            asked = asyncio.ensure_future(self._link.call(self._worker, what, key=self._key, **values))
            try:
                while not (await asyncio.wait([asked], timeout=QUERY_SECONDS))[0]:
                    self._check_worker()
                answer = asked.result()
            except LinkDown:
                self._check_worker()
                await asyncio.sleep(QUERY_SECONDS)
                continue
            finally:
                asked.cancel()
            if answer.get("unknown"):
                raise Gone("its Dask worker has ended it")
            return answer

    def _check_worker(self) -> None:
        if self._link.client is not None and self._worker not in self._link.threads:
            raise Gone("its Dask worker has ended")

    async def _take(self, lines: bytes) -> None:
        """Appends lines to the file of the assignment, each after the files that it names."""
        if not lines:
            return
        for line in lines.splitlines(keepends=True):
            if b'"files"' in line:
                for content in filter(None, decode_line(line)):
                    for name in content.get("files", ()):
                        await self._fetch(str(name), inside(self._folder / FILES, str(name)))
        with open(self._folder / EVENTS, "ab", opener=opener) as stream:
            stream.write(lines)
        self._offset += len(lines)
        self._heard = time.monotonic()
        self._link.has_news.set()

    async def _fetch(self, name: str, target: Path) -> None:
        """Fetches a file from the worker.

        Args:
            name: see `Training.fetch`.
            target: where it goes.
        """
        make_folder(target.parent)
        with open(target, "wb", opener=opener) as stream:
            while piece := (await self._call("fetch", name=name, offset=stream.tell()))["piece"]:
                stream.write(piece)
                self._heard = time.monotonic()
                if len(piece) < relay.PIECE:
                    break
            stream.flush()
            os.fsync(stream.fileno())

    async def _fetch_checkpoint(self, identity: list[int]) -> None:
        """Fetches a checkpoint. The lines that were written before it are here already.

        Args:
            identity: identifies it.
        """
        make_folder(self._checkpoints.parent)
        make_folder(self._checkpoints)
        partial = self._checkpoints / f"{LATEST}.partial"
        await self._fetch(relay.SNAPSHOT, partial)
        with (self._folder / EVENTS).open("rb") as stream:
            os.fsync(stream.fileno())
        with contextlib.suppress(FileNotFoundError):  # the first one
            move_over(self._checkpoints / LATEST, self._checkpoints / PREVIOUS)
        move_over(partial, self._checkpoints / LATEST)
        self._has = identity


async def _why(task: Any) -> Exception:
    """Returns why a task has failed before it could begin."""
    error = await task.exception()
    if isinstance(error, ImportError) or "deserializ" in str(error):
        rule = "the Dask scheduler and its workers must have sweepstack"
        return UserError(rule, remedy='install it there: pip install "sweepstack[dask]"')
    return Gone(one_line(error))
