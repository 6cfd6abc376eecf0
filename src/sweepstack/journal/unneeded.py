"""What in the folder of a journal nothing needs any more, what is kept on request, and what stays for which reason.

Only what the ledger proves to be unneeded counts as such. Files that sweepstack has not made are never touched.
"""

from __future__ import annotations

import contextlib
import errno
import re
import secrets
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from sweepstack.errors import count
from sweepstack.files.kept import KEPT_FILE, REPORTS_FOLDER
from sweepstack.files.owner_only import make_folder
from sweepstack.journal.database import reading, transaction
from sweepstack.journal.files import is_locked
from sweepstack.journal.ledger_rows import composition_of, entries
from sweepstack.journal.log import is_journal
from sweepstack.journal.schema import is_whole
from sweepstack.journal.sessions import Sessions
from sweepstack.journal.unfinished import has_tables, is_living
from sweepstack.planning.classify import is_pruned
from sweepstack.planning.known_trials import CLAIMED, SETTLED, Entry
from sweepstack.trial import PART_STATE, PRUNED_STATE

RECORDED = "Sessions that are recorded"
CHECKPOINTS = "Checkpoints"
KEPT_CHECKPOINTS = "Checkpoints that no command resumes"
FILES = "Files that wait for their delivery"
WORK = "Work folders"
DAMAGED = "Damaged journals"
JOURNALS = "Journals"
STUDIES = "Studies of searches"
REPORTS = "Targets and plots that reports keep"
BROKEN_OFF = "What a clean has left that was broken off"
STUDIES_FOLDER = "searches"
"""The folder with the studies of searches, named by sampler and digest."""
TRASH = "deleting-"
"""The names of folders that are about to be deleted begin with it."""
STALE_SECONDS = 86400.0
"""Age in seconds from which on a work folder without a stack has no worker that writes to it."""
STACK_ID = re.compile(r"[0-9a-f]{16}")
TRIAL_FILES = re.compile(r"[0-9a-f]{16}(-\d+)?")
WORK_ID = re.compile(r"(measure-)?[0-9a-f]{16}")
SESSION_FILE = re.compile(r"(\d{6,})\.(lock|delivery\.lock|control)")
DAMAGED_JOURNAL = re.compile(r"\d{6,}(-\d+)?\.jsonl")
OF_PRUNED = re.compile(re.escape(PRUNED_STATE).replace(r"\{step\}", r"(\d+)"))
LAST_STATE = re.compile(
    r"latest\.pt|previous\.pt|latest\.pt\.partial|" + re.escape(PART_STATE).replace(r"\{number\}", r"\d+")
)
"""The files that a stack resumes from; see `CheckpointManager`."""


@dataclass(frozen=True)
class Item:
    """A file or a folder."""

    kind: str
    """What it is, in words."""
    path: str
    """Its path in the folder of the journal."""
    size: int
    """Bytes of its files."""
    why: str
    """Why it is not needed, or why it stays."""


@dataclass(frozen=True)
class Inventory:
    """What is in the folder of a journal, beside the ledger."""

    unneeded: tuple[Item, ...] = ()
    """What nothing needs."""
    kept: tuple[Item, ...] = ()
    """What no command needs, and somebody may have kept on purpose."""
    needed: tuple[Item, ...] = ()
    """What stays."""


def find_unneeded(sessions: Sessions) -> Inventory:
    """Returns what is in the folder of a journal. Writes nothing.

    Raises:
        StoreError: the ledger cannot be read.
    """
    if not sessions.folder.is_dir():
        return Inventory()
    if not sessions.file.exists():
        return _Search(sessions, None).inventory()
    with reading(sessions.file) as database:
        return _Search(sessions, database if has_tables(database) else None).inventory()


def remove(sessions: Sessions, chosen: Iterable[Item], remember: bool) -> list[Item]:
    """Removes what is still unneeded, or kept, of what was found before; returns what was removed.

    No session can begin, claim or end while that is decided: the decision holds the lock of the ledger. In it, files
    are only moved; they are deleted afterwards.

    Args:
        sessions: the sessions of the journal.
        chosen: what to remove.
        remember: keep the outcomes of recorded sessions for `Ledger.recorded_outcomes`.

    Raises:
        StoreError: the ledger cannot be used.
    """
    wanted = {(item.kind, item.path) for item in chosen}
    if not wanted:
        return []
    removed: list[Item] = []
    with discarding(sessions) as discard, transaction(sessions.file) as database:
        now = _Search(sessions, database).inventory()
        found = [item for item in (*now.unneeded, *now.kept) if (item.kind, item.path) in wanted]
        recorded = [item for item in found if item.kind == RECORDED]
        removed += [item for item in found if item.kind != RECORDED and discard(sessions.folder / item.path)]
    for item in recorded:
        number = int(Path(item.path).stem)
        lock = sessions.delivery_lock(number)
        with contextlib.suppress(Timeout), lock.acquire(timeout=0):  # else its writer is about to remove it
            if sessions.is_recorded(number):
                sessions.retire(number, remember)
                removed.append(item)
            Path(lock.lock_file).unlink(missing_ok=True)
    return removed


@contextlib.contextmanager
def discarding(sessions: Sessions) -> Iterator[Callable[[Path], bool]]:
    """Yields a function that moves a file or folder of the journal away; at the end of the block all of it is deleted.

    The function returns False if there is nothing to move. If the block is killed, `find_unneeded` finds what is left.
    """
    trash = sessions.folder / f"{TRASH}{secrets.token_hex(4)}"
    moved = 0

    def discard(path: Path) -> bool:
        nonlocal moved
        if not path.exists() and not path.is_symlink():
            return False
        make_folder(trash)
        moved += 1
        try:
            path.rename(trash / str(moved))
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.EXDEV:  # it belongs to somebody else
                return False
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return not path.exists()
        return True

    try:
        yield discard
    finally:
        shutil.rmtree(trash, ignore_errors=True)


class _Search:
    """Looks through the folder of a journal.

    Args:
        sessions: the sessions of the journal.
        database: its ledger; None if there is none, so that nothing is known.
    """

    def __init__(self, sessions: Sessions, database: sqlite3.Connection | None) -> None:
        self._sessions, self._folder, self._database = sessions, sessions.folder, database
        self._unneeded: list[Item] = []
        self._kept: list[Item] = []
        self._needed: list[Item] = []
        rows: list[tuple[int, int]] = []
        if database is not None:  # of a damaged row only the number counts: a command will find out what it was
            whole = is_whole(database, "sessions")
            rows = database.execute(f"SELECT number, CASE WHEN {whole} THEN ended ELSE 0 END FROM sessions").fetchall()
        self._ended = dict(rows)
        self._journals = {int(path.stem): path for path in self._folder.glob("[0-9]*.jsonl") if is_journal(path)}
        self._living = [number for number, ended in rows if not ended and is_living(sessions, number)]
        self._is_quiet = all(self._ended.values()) and not self._journals.keys() - self._ended.keys()
        """True if the rows of the trials say all that the journals say, and nobody changes them."""

    def inventory(self) -> Inventory:
        self._find_sessions()
        self._find_checkpoints()
        self._find_files()
        self._find_work()
        for path in self._in("damaged", DAMAGED_JOURNAL):
            self._add(self._kept, DAMAGED, path, "what could be read of it is recorded")
        for path in self._in(REPORTS_FOLDER, KEPT_FILE):
            self._add(self._kept, REPORTS, path, "the next report finds and draws them again, which takes some seconds")
        for path in sorted((self._folder / STUDIES_FOLDER).glob("*.jsonl")):
            self._add(self._needed, STUDIES, path, "the same search goes on from it")
        for path in sorted(self._folder.glob(f"{TRASH}*")):
            if re.fullmatch(rf"{TRASH}[0-9a-f]{{8}}", path.name):
                self._add(self._unneeded, BROKEN_OFF, path, "it was about to be deleted")
        return Inventory(tuple(self._unneeded), tuple(self._kept), tuple(self._needed))

    def _add(self, items: list[Item], kind: str, path: Path, why: str, others: Sequence[Path] = ()) -> None:
        size = sum(size_of(one) for one in (path, *others))
        items.append(Item(kind, path.relative_to(self._folder).as_posix(), size, why))

    def _in(self, name: str, pattern: re.Pattern[str]) -> list[Path]:
        """Returns what a folder in that of the journal has under names that sweepstack gives."""
        return [path for path in _content(self._folder / name) if pattern.fullmatch(path.name)]

    def _find_sessions(self) -> None:
        for number in sorted({*self._ended, *self._journals}):
            path, ended = self._sessions.journal(number), self._ended.get(number)
            beside = [self._folder / f"{number:06}.{end}" for end in ("lock", "control")]
            if ended == 2:
                self._add(self._unneeded, RECORDED, path, "all of it is in the store", beside)
            elif number in self._living:
                about = self._sessions.control(number).read().about
                who = "a command" if about is None else f"process {about.pid} on {about.host}"
                self._add(self._needed, JOURNALS, path, f"{who} trains", beside)
            else:
                self._add(self._needed, JOURNALS, path, "it is not delivered yet: sweepstack sync delivers it", beside)
        for path in sorted(self._folder.glob("[0-9]*")):
            found = SESSION_FILE.fullmatch(path.name)
            if found is None or int(found[1]) in self._ended.keys() | self._journals.keys() or is_locked(path):
                continue
            if self._database is not None:
                self._add(self._unneeded, JOURNALS, path, "its session is recorded")

    def _find_checkpoints(self) -> None:
        database = self._database
        found: set[str] = set()
        if database is not None:
            found = {one for (one,) in database.execute("SELECT id FROM stacks")}
            found |= {one for (one,) in database.execute("SELECT DISTINCT stack FROM trials WHERE stack NOT NULL")}
        for path in self._in("checkpoints", re.compile(".+")):
            if not path.is_dir() or path.is_symlink():
                continue
            if path.name in found:
                self._find_states(path)
            elif STACK_ID.fullmatch(path.name) and all(map(_is_state, _content(path))):
                if self._living:
                    self._add(self._needed, CHECKPOINTS, path, "a command trains, which may have just made it")
                else:
                    why = "kept by checkpoint.keep=true, or left when a worker or a ledger was lost"
                    self._add(self._kept, KEPT_CHECKPOINTS, path, why)

    def _find_states(self, folder: Path) -> None:
        """Looks through the checkpoints of a stack that the ledger knows."""
        assert self._database is not None
        rows = entries(self._database, "stack = ?", (folder.name,))
        (number,) = self._database.execute("SELECT count(*) FROM trials WHERE stack = ?", (folder.name,)).fetchone()
        composition = composition_of(self._database, folder.name)
        unneeded: list[Path] = []
        is_clear = self._is_quiet and len(rows) == number > 0 and all(row.state != CLAIMED for row in rows)
        if is_clear and composition is not None and not composition.keep:
            steps = {row.measured for row in rows if is_pruned(row)}
            for path in _content(folder):
                step = OF_PRUNED.fullmatch(path.name)
                if step is not None and int(step[1]) not in steps:
                    self._add(self._unneeded, CHECKPOINTS, path, "the trials that were pruned there have ended since")
                    unneeded.append(path)
            # A stack of one trial is resumed from its own state even if it was pruned.
            is_over = all(row.state == SETTLED or is_pruned(row) for row in rows)
            if is_over and steps and sum(map(len, composition.trajectories)) > 1:
                for path in (one for one in _content(folder) if LAST_STATE.fullmatch(one.name)):
                    why = "all trials of its stack have ended, or go on from the state in which they were pruned"
                    self._add(self._unneeded, CHECKPOINTS, path, why)
                    unneeded.append(path)
        left = size_of(folder) - sum(map(size_of, unneeded))
        if left or not unneeded:
            item = Item(CHECKPOINTS, folder.relative_to(self._folder).as_posix(), left, self._why_states_stay(rows))
            self._needed.append(item)

    def _why_states_stay(self, rows: Sequence[Entry]) -> str:
        if any(row.session in self._living for row in rows):
            return "a command trains these trials"
        if any(row.state == CLAIMED for row in rows):
            return "the command that trained these trials was killed: the same command goes on from here"
        states = Counter(
            "pruned" if is_pruned(row) else "settled" if row.state == SETTLED else "interrupted" for row in rows
        )
        sweeps = sorted({row.trial.sweep for row in rows if row.state != SETTLED and row.trial.sweep is not None})
        of = f" of sweep {', '.join(sweeps)}" if sweeps else ""
        if states["interrupted"]:
            return f"{count(states['interrupted'], 'interrupted trial')}{of}: the same command goes on from here"
        if states["pruned"]:
            return f"{count(states['pruned'], 'pruned trial')}{of}: a command that does not prune goes on from here"
        return "its trials are not delivered yet: sweepstack sync delivers them"

    def _find_files(self) -> None:
        is_delivered = self._database is not None and not self._ended and not self._journals
        for path in self._in("files", TRIAL_FILES):
            if is_delivered:
                self._add(self._unneeded, FILES, path, "everything is delivered")
            else:
                self._add(self._needed, FILES, path, "a journal is not delivered yet")

    def _find_work(self) -> None:
        known = set()
        if self._database is not None:
            known = {one for (one,) in self._database.execute("SELECT id FROM stacks")}
        for path in self._in("work", WORK_ID):
            if path.name in known:
                self._add(self._needed, WORK, path, "a worker has reported there, and a command will read it")
            elif self._database is None or self._living or time.time() - _newest(path) < STALE_SECONDS:
                self._add(self._needed, WORK, path, "a worker may still write there")
            else:
                self._add(self._unneeded, WORK, path, "nobody reads it any more: its stack is recorded or has moved")


def _content(folder: Path) -> list[Path]:
    """Returns what is in a folder; nothing if it cannot be read, or has just been deleted."""
    with contextlib.suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _is_state(path: Path) -> bool:
    """True if sweepstack gives such a name to something in a folder of checkpoints."""
    return any(name.fullmatch(path.name) for name in (LAST_STATE, OF_PRUNED)) or path.name.endswith(".newer.pt")


def size_of(path: Path) -> int:
    """Returns the bytes of a file, or of all files in a folder. Links are not followed."""
    total = 0
    for one in (path, *path.rglob("*")) if path.is_dir() and not path.is_symlink() else (path,):
        with contextlib.suppress(OSError):
            total += one.lstat().st_size if one.is_symlink() or not one.is_dir() else 0
    return total


def _newest(path: Path) -> float:
    """Returns when something in a folder was changed last, in seconds since the epoch."""
    times = [0.0]
    for one in (path, *path.rglob("*")):
        with contextlib.suppress(OSError):
            times.append(one.lstat().st_mtime)
    return max(times)
