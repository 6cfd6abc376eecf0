"""What nothing needs: in the folder of a journal, and in the folder of datasets."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from filelock import Timeout

from sweepstack.files.downloads import download_lock, downloaded_names, downloads
from sweepstack.journal.files import is_locked
from sweepstack.journal.ledger import Ledger
from sweepstack.journal.unneeded import Inventory, Item, find_unneeded, remove, size_of
from sweepstack.paths import cache_folder

DOWNLOADS = "Downloads"


def find(ledger: Ledger) -> Inventory:
    """Returns what nothing needs, what is kept, and what stays. Writes nothing.

    Raises:
        StoreError: the ledger cannot be read.
    """
    found, root = find_unneeded(ledger), cache_folder()
    broken_off = tuple(
        Item(DOWNLOADS, str(path), size_of(path), "it was broken off, and begins again when it is needed")
        for name in downloaded_names(root)
        if not is_locked(Path(download_lock(root, name).lock_file))
        for path in downloads(root, name)
    )
    return replace(found, unneeded=(*found.unneeded, *broken_off))


def clean(ledger: Ledger, chosen: Iterable[Item], remember: bool) -> list[Item]:
    """Removes what was found, and is not needed since; returns what was removed.

    Args:
        ledger: the ledger of the journal.
        chosen: what to remove.
        remember: see `remove`.

    Raises:
        StoreError: the ledger cannot be used.
    """
    chosen, root = list(chosen), cache_folder()
    wanted = {item.path: item for item in chosen if item.kind == DOWNLOADS}
    removed = remove(ledger, (item for item in chosen if item.kind != DOWNLOADS), remember)
    for name in downloaded_names(root):
        with contextlib.suppress(Timeout, OSError), download_lock(root, name).acquire(timeout=0):
            for path in downloads(root, name):
                if str(path) in wanted:
                    shutil.rmtree(path, ignore_errors=True)
                    removed += [] if path.exists() else [wanted[str(path)]]
    return removed
