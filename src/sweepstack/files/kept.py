"""Keeps what takes a report seconds to find: the targets of datasets, and plots.

Each file is named by a key, which has all that its content depends on: targets belong to the checksum of their data and
to what is held out. The files lie in the journal's folder; who deletes them loses only time.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import logging
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweepstack.errors import UserError
from sweepstack.files.owner_only import FILE, make_folder
from sweepstack.files.replacing import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

REPORTS_FOLDER = "reports"
"""The folder of such files, in that of the journal."""
KEPT_FILE = re.compile(r"[0-9a-f]{32}\.npz|\.[0-9a-f]{8}\.npz")
"""The names of such files; the second one is that of a file which was being written when its process was killed."""
MOST = 100
"""The most files that are kept; the oldest ones make room."""
KEY = "key"
"""The name of the array with the text of the key."""
log = logging.getLogger(__name__)


def load_kept(folder: Path, *key: str) -> dict[str, NDArray[Any]] | None:
    """Returns what is kept for a key; None if nothing is. A file that is damaged, or of another key, counts as none.

    Args:
        folder: the folder of the journal.
        key: all that determines what is kept.
    """
    import numpy as np

    text, path = _file(folder, key)
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, arrays = content[:32], content[32:]
    with contextlib.suppress(ValueError, OSError, zipfile.BadZipFile):
        if hashlib.sha256(arrays).digest() == checksum:
            with np.load(io.BytesIO(arrays), allow_pickle=False) as opened:
                found = dict(opened)
            if str(found.pop(KEY, "")) == text:
                return found
    log.warning("%s is damaged and is not used: what it held is found again", path)
    return None


def keep(folder: Path, *key: str, **arrays: NDArray[Any]) -> None:
    """Keeps arrays for a key, if there is a journal on this machine that can be written to.

    Args:
        folder: the folder of the journal.
        key: all that determines the arrays, which are given by name.
    """
    import numpy as np

    text, path = _file(folder, key)
    named: Mapping[str, Any] = {**arrays, KEY: np.array(text)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **named)
    content = buffer.getvalue()
    with contextlib.suppress(OSError, UserError):
        if path.parents[1].is_dir():
            make_folder(path.parent)
            with replacing(path) as temporary:
                temporary.chmod(FILE)
                temporary.write_bytes(hashlib.sha256(content).digest() + content)
            by_age = sorted(path.parent.glob("*.npz"), key=lambda one: one.stat().st_mtime)
            for old in by_age[:-MOST]:
                old.unlink(missing_ok=True)


def is_kept(folder: Path, *key: str) -> bool:
    """True if something is kept for a key; see `load_kept`."""
    return _file(folder, key)[1].exists()


def key_of_targets(config_text: str, part: str, digest: str) -> tuple[str, ...]:
    """Returns the key of the targets of a part of the data of a trial.

    Args:
        config_text: the resolved config of the trial as YAML.
        part: "val" for the items that were held out, "test" for the test items.
        digest: the checksum of the data.
    """
    which = "|validation_split|folds?" if part == "val" else ""
    return ("targets", part, digest, config_lines(config_text, f"dataset|task|split{which}"))


def config_lines(config_text: str, keys: str) -> str:
    """Returns the lines of a config that have some keys, a regular expression. Reading all of a config takes a hundred
    times as long."""
    return "".join(re.findall(rf"^(?:{keys}):.*\n?(?:[ -].*\n?|\n)*", config_text, re.MULTILINE))


def _file(folder: Path, key: tuple[str, ...]) -> tuple[str, Path]:
    text = json.dumps([importlib.metadata.version("sweepstack"), *key])
    name = f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"
    return text, folder / REPORTS_FOLDER / name
