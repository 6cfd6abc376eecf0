"""What lies beside the ledger: in which folder, and files that are kept until they are delivered."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from sweepstack.files.owner_only import make_folder
from sweepstack.masking import MASK, STARS, reveal


def resolve_folder(database: Path | None, uri: str, root: Path, chosen: str | None) -> Path:
    """Where the ledger of a store is: as chosen, else beside the store's database, else in the project's mlruns."""
    if chosen is not None:
        return Path(chosen).expanduser().absolute()
    if database is not None:
        return database.parent / "journal" / database.name
    of_version_1, folder = (_of_server(root, address) for address in (reveal(uri), uri))
    return of_version_1 if of_version_1.exists() else folder


def _of_server(root: Path, uri: str) -> Path:
    uri = STARS.sub(MASK, uri)  # whatever number the mask has in this process
    return root / "mlruns" / "journal" / hashlib.blake2b(uri.encode(), digest_size=6).hexdigest()


def keep_file(folder: Path, file: Path) -> Path:
    """A file as it is now, whatever is written in its place later; a link where the file system has them.

    Args:
        folder: for what is kept, see `Sessions.files`.
    """
    kept = folder / file.name
    make_folder(folder.parent)
    make_folder(folder)
    kept.unlink(missing_ok=True)
    try:
        os.link(file, kept)
    except OSError:
        shutil.copy2(file, kept)
    return kept


def put_away(file: Path, folder: Path) -> Path:
    """Keeps a damaged file in a folder, too, beside those of its name that are there; gives its new path."""
    make_folder(folder)
    copies = (folder / f"{file.stem}-{number}{file.suffix}" for number in itertools.count(2))
    kept = next(path for path in itertools.chain([folder / file.name], copies) if not path.exists())
    try:
        os.link(file, kept)
    except OSError:
        shutil.copy2(file, kept)
    return kept


def drop_files(folders: Iterable[Path]) -> None:
    """What was kept and is delivered."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def is_locked(path: Path) -> bool:
    """Whether somebody holds a lock that this process may only look at; where nobody can tell, nobody does."""
    try:
        import fcntl

        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False
