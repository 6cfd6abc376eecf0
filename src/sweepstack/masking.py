"""Masks the secrets in addresses.

Where an address enters the program, `hide` replaces its secrets by `***`. It keeps them in the memory of this process
and in the environment of the processes that it starts. Everything else sees the masked address: configs, records, logs,
the terminal. Only code that connects calls `reveal` for the real address.

A secret is a password, a token in the place of a user name, or the value of a parameter such as `?password=`.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

MASK = "***"
"""Replaces a secret in an address. Each further secret of the same address gets one more star."""
VARIABLE = "SWEEPSTACK_SECRETS"
"""The environment variable that passes the secrets to processes that a launcher starts. It is never recorded."""
SHORTEST = 4
"""The fewest characters of a secret that is also masked in free text; a shorter one would match many words."""
OWN_TOKEN = 20
"""The fewest characters of a user name, beside a password, that is taken for a token."""

STARS = re.compile(r"\*{3,}")
"""Matches a mask."""
SCHEME = r"[A-Za-z][\w+.-]*://"
"""Matches the scheme of an address."""
PARAMETER = re.compile(
    r"(?P<name>[?&;#](?:[\w.-]*(?:pass|pwd|token|secret|api_?key|access_?key|account_?key|signature|credential)[\w.-]*"
    r"|sig|key|auth|authorization|odbc_connect)=)(?P<secret>[^&\s\"'#;]+)",
    re.IGNORECASE,
)
"""Matches a parameter of an address whose value is a secret."""
QUOTED = re.compile(rf"(?<=\")(?:{SCHEME})(?:\\.|[^\"\\\n])*|(?<=')(?:{SCHEME})(?:\\.|[^'\\\n])*")
"""Matches an address in quotes."""
BARE = re.compile(rf"{SCHEME}(?:(?!,\s*[\[{{\"']*(?:{SCHEME}|[\w.+]+\s*[:=]))[^\s\"'<>`\x00-\x1f])*")
"""Matches an address that is not quoted; `_bare` finds its end."""
ESCAPED = re.compile(r"\\([\\()\[\]{}:=,'\"@ \t])")
"""Matches an escaped character in an override; Hydra reads it as the character itself."""


class _Part(NamedTuple):
    """A secret in an address."""

    begin: int
    end: int
    context: str
    """The scheme and the host of the address, and which of its secrets this is."""


Replace = Callable[[str, str], str]
"""Takes a secret and its context; returns what replaces it."""

_secrets: dict[tuple[str, str], str] = {}
"""Real secrets by context and mask."""


def hide(text: str, unescape: bool = False) -> str:
    """Masks the secrets in a text. `reveal` restores them. Secrets that are masked already stay so.

    Args:
        unescape: the text is an override, in which Hydra reads `\\,` as a comma.
    """

    def keep(secret: str, context: str) -> str:
        real = ESCAPED.sub(r"\1", secret) if unescape else secret
        mask = MASK
        while _secrets.get((context, mask), real) != real:
            mask += "*"
        if (context, mask) not in _secrets:
            _secrets[context, mask] = real
            os.environ[VARIABLE] = json.dumps([[*key, kept] for key, kept in _secrets.items()])
        return mask

    _inherit()
    return _replaced(text, keep)


def reveal(text: str) -> str:
    """Restores the secrets that `hide` has masked; a mask whose secret this process does not know stays."""
    _inherit()
    if MASK not in text:
        return text
    return _replaced(text, _remembered, masks=True)


def mask(text: str) -> str:
    """Masks secrets in free text, such as a library's message: those of addresses in it, and all known ones."""
    if "://" in text:
        text = _replaced(text, lambda secret, context: MASK)
    _inherit()
    forms = {form for (context, _), kept in _secrets.items() for form in _forms(kept) if form not in context}
    for secret in sorted(forms, key=len, reverse=True):  # only whole words: a password may be part of many words
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    return text


def lacks_secrets(text: str) -> bool:
    """True if a text has a masked secret that this process does not know."""
    return has_masks(reveal(text))


def has_masks(text: str) -> bool:
    """True if a text has a masked secret."""
    secrets: list[str] = []

    def collect(secret: str, context: str) -> str:
        secrets.append(secret)
        return secret

    if MASK in text:
        _replaced(text, collect, masks=True)
    return any(STARS.fullmatch(secret) for secret in secrets)


def hide_in(value: Any) -> Any:
    """Applies `hide` to all texts in plain values (mappings, lists, texts)."""
    return _mapped(value, hide)


def reveal_in(value: Any) -> Any:
    """Applies `reveal` to all texts in plain values."""
    return _mapped(value, reveal)


class Formatter(logging.Formatter):
    """Formats the lines of a log without secrets, also those of a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


def _mapped(value: Any, function: Callable[[str], str]) -> Any:
    match value:
        case str():
            return function(value) if "://" in value else value
        case Mapping():
            return {key: _mapped(part, function) for key, part in value.items()}
        case list():
            return [_mapped(part, function) for part in value]
        case tuple() if type(value) is tuple:
            return tuple(_mapped(part, function) for part in value)
    return value


def _remembered(secret: str, context: str) -> str:
    if not STARS.fullmatch(secret):
        return secret
    if (context, secret) in _secrets:
        return _secrets[context, secret]
    for (known, kept), real in _secrets.items():  # the host was written with an interpolation, and is resolved now
        if kept == secret and "${" in known:
            pattern = ".*".join(re.escape(part) for part in re.split(r"\$\{[^}]*\}", known))
            if re.fullmatch(pattern, context):
                return real
    return secret


def _replaced(text: str, replace: Replace, masks: bool = False) -> str:
    """Replaces every secret in the addresses of a text.

    Args:
        masks: replace masks, too.
    """
    if "://" not in text:
        return text
    if re.match(SCHEME, text) and not _has_several(text):
        return _in_address(text, replace, masks)
    text = QUOTED.sub(lambda found: _in_address(found[0], replace, masks), text)
    return BARE.sub(lambda found: _bare(found[0], replace, masks), text)


def _has_several(text: str) -> bool:
    return len(re.findall(SCHEME, text)) > 1 or "\n" in text


def _bare(text: str, replace: Replace, masks: bool) -> str:
    """Replaces the secrets of an unquoted address. A bracket that was opened before the address ends it."""
    end = len(text)
    depth = 0
    for index, char in enumerate(text):
        if char == "\\":
            continue
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth < 0 and text[index - 1] != "\\":
                end = index
                break
    return _in_address(text[:end], replace, masks) + text[end:]


def _in_address(address: str, replace: Replace, masks: bool) -> str:
    parts = sorted(_secret_parts(address))
    for part in reversed(parts):
        secret = address[part.begin : part.end]
        if not secret or secret.startswith("${") or (not masks and STARS.fullmatch(secret)):
            continue
        address = address[: part.begin] + replace(secret, part.context) + address[part.end :]
    return address


def _secret_parts(address: str) -> list[_Part]:
    """Finds the secrets of an address. They do not overlap."""
    if address.lower().startswith("sqlite:"):
        return []  # a path, whatever characters are in it
    begin = address.index("://") + 3
    scheme = address[: begin - 3].lower()
    user = _user(address, begin, scheme.startswith(("http", "databricks", "git", "ssh", "ftp", "ws")))
    host_begin = user[-1].end if user else begin
    host = re.match(r"@?[^/?#\s]*", address[host_begin:])
    where = f"{scheme}://{host[0].lstrip('@') if host else ''}"
    parts = [_Part(one.begin, one.end, f"{where} {one.context}") for one in user]
    values = PARAMETER.finditer(address, host_begin)
    return parts + [_Part(*found.span("secret"), f"{where} {found['name'][1:].lower()}") for found in values]


def _user(address: str, begin: int, is_web: bool) -> list[_Part]:
    """Finds the secrets before the host."""
    authority = re.match(r"[^/?#]*", address[begin:])
    inside = authority is not None and "@" in authority[0]
    last = address.rfind("@", begin)
    if last < 0:
        return []
    name, colon, _ = address[begin:last].partition(":")
    if colon and not re.search(r"[/?#]", name):
        rest = address[begin + len(name) + 1 : last]
        query = rest.find("?")
        is_port = re.match(r"\d{1,5}(?=[/?#])", rest) is not None
        if is_port and (not inside) and ("." in name or name == "localhost" or query >= 0):
            return []
        if query >= 0 and PARAMETER.search(rest, query):  # the @ belongs to the value of a parameter
            at = address.rfind("@", begin, begin + len(name) + 1 + query)
            if at >= 0:
                last = at
                rest = address[begin + len(name) + 1 : last]
        start = begin + len(name) + 1
        parts = [_Part(start, last, f"password of {name}")]
        token = not rest or rest == "x-oauth-basic" or len(name) >= OWN_TOKEN or STARS.fullmatch(name) is not None
        if is_web and name and token:
            parts = [_Part(begin, begin + len(name), "user"), _Part(start, last, "password")]
        return [part for part in parts if part.end > part.begin] or parts[:1]
    if inside and is_web and authority is not None:
        end = begin + authority[0].rfind("@")
        return [_Part(begin, end, "user")]
    return []


def _forms(secret: str) -> set[str]:
    return {form for form in (secret, unquote(secret)) if len(form) >= SHORTEST and form.strip("*")}


def _inherit() -> None:
    """Takes over the secrets of the process that started this one."""
    global _inherited
    text = os.environ.get(VARIABLE)
    if text is None or text == _inherited:
        return
    _inherited = text
    for context, mask_, secret in json.loads(text):
        _secrets.setdefault((context, mask_), secret)


_inherited: str | None = None
