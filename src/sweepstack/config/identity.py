"""The fingerprint of a trial as a value, which is read without the schema of configs: that takes a while to import."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fingerprint:
    """Identifies the weights and metrics that a trial ends with, by three hashes in lowercase hex digits.

    Raises:
        ValueError: the hashes do not have 20, 16 and 8 such digits.
    """

    config: str
    """Hash of the config values that count."""
    data: str
    """Hash of the images and labels."""
    code: str
    """Hash of the code that trains: sweepstack's own meaning of a config, and the user's modules that it names."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{20}-[0-9a-f]{16}-[0-9a-f]{8}", str(self)):
            raise ValueError(
                f"a fingerprint should be 20, 16 and 8 lowercase hex digits joined by -, got {str(self)!r}"
            )

    def __str__(self) -> str:
        return f"{self.config}-{self.data}-{self.code}"

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """Reads a fingerprint that `str` has written.

        Raises:
            ValueError: the text is no fingerprint.
        """
        config, _, rest = text.partition("-")
        data, _, code = rest.partition("-")
        return cls(config, data, code)

    def change_since(self, other: Fingerprint) -> str:
        """Says in words what differs from an older fingerprint, such as "the data have changed"; empty if nothing."""
        names = {"config": "the config", "data": "the data", "code": "the training code"}
        changed = [name for part, name in names.items() if getattr(self, part) != getattr(other, part)]
        if not changed:
            return ""
        *first, last = changed
        subject = f"{', '.join(first)} and {last}" if first else last
        return f"{subject} {'have' if first or last == 'the data' else 'has'} changed"
