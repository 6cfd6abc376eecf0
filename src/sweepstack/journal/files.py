"""The folder of a ledger, and the files beside it that are kept until they are delivered."""

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
    """Returns the folder of a store's ledger.

    Args:
        database: the store's database file; None for a server.
        uri: the store's address. For a server the folder's name is made of it.
        root: the project's folder, for a server.
        chosen: the folder that the config names, if it does.
    """
    if chosen is not None:
        return Path(chosen).expanduser().absolute()
    if database is not None:
        return database.parent / "journal" / database.name
    of_version_1, folder = (_of_server(root, address) for address in (reveal(uri), uri))
    return of_version_1 if of_version_1.exists() else folder


def _of_server(root: Path, uri: str) -> Path:
    uri = STARS.sub(MASK, uri)  # the number of stars in a mask differs between processes
    return root / "mlruns" / "journal" / hashlib.blake2b(uri.encode(), digest_size=6).hexdigest()


def keep_file(folder: Path, file: Path) -> Path:
    """Keeps a file as it is now, even if another one replaces it later; returns the path of the kept file.

    It makes a hard link if the file system has them, else a copy.

    Args:
        folder: the folder for kept files; see `Sessions.files`.
        file: the file to keep.
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


def keep_damaged_file(file: Path, folder: Path) -> Path:
    """Keeps a damaged file in a folder, under a name that is free there; returns the path of the kept file."""
    make_folder(folder)
    copies = (folder / f"{file.stem}-{number}{file.suffix}" for number in itertools.count(2))
    kept = next(path for path in itertools.chain([folder / file.name], copies) if not path.exists())
    try:
        os.link(file, kept)
    except OSError:
        shutil.copy2(file, kept)
    return kept


def drop_files(folders: Iterable[Path]) -> None:
    """Deletes folders of kept files that are delivered."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def is_locked(path: Path) -> bool:
    """True if another process holds a lock, found without changing the file; False if that cannot be found."""
    try:
        import fcntl

        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False
