"""Secrets in addresses. At the edge, where an address comes in, `hide` puts `***` in the place of its secrets and keeps
them in the memory of this process and in the environment of those that it starts. All else sees the masked address:
configs, records, logs, the terminal. Only who connects asks `reveal` for the real one.

A secret is a password, a token that stands alone where a user name may stand, and the value of a parameter such as
`?password=`.
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
"""What stands for a secret in an address. Another secret of the same place gets a star more."""
VARIABLE = "SWEEPSTACK_SECRETS"
"""The environment variable that hands the secrets to processes which a launcher starts. It is never recorded."""
SHORTEST = 4
"""Characters of a secret that is replaced in free text, too; a shorter one would be found in many words."""
OWN_TOKEN = 20
"""Characters of a user name, beside a password, that is no name any more but a token."""

STARS = re.compile(r"\*{3,}")
SCHEME = r"[A-Za-z][\w+.-]*://"
PARAMETER = re.compile(
    r"(?P<name>[?&;#](?:[\w.-]*(?:pass|pwd|token|secret|api_?key|access_?key|account_?key|signature|credential)[\w.-]*"
    r"|sig|key|auth|authorization|odbc_connect)=)(?P<secret>[^&\s\"'#;]+)",
    re.IGNORECASE,
)
QUOTED = re.compile(rf"(?<=\")(?:{SCHEME})(?:\\.|[^\"\\\n])*|(?<=')(?:{SCHEME})(?:\\.|[^'\\\n])*")
BARE = re.compile(rf"{SCHEME}(?:(?!,\s*[\[{{\"']*(?:{SCHEME}|[\w.+]+\s*[:=]))[^\s\"'<>`\x00-\x1f])*")
ESCAPED = re.compile(r"\\([\\()\[\]{}:=,'\"@ \t])")
"""What Hydra takes for the sign itself."""


class _Part(NamedTuple):
    """A secret in an address."""

    begin: int
    end: int
    context: str
    """The address without it: where it belongs."""


Replace = Callable[[str, str], str]
"""Takes a secret and its context; gives what stands in its place."""

_secrets: dict[tuple[str, str], str] = {}
"""By context and mask."""


def hide(text: str, unescape: bool = False) -> str:
    """The text with its secrets masked; `reveal` gives them back. What is masked already stays.

    Args:
        unescape: it is an override, in which Hydra reads `\\,` as a comma.
    """

    def keep(secret: str, context: str) -> str:
        real = ESCAPED.sub(r"\1", secret) if unescape else secret
        mask = MASK
        while _secrets.get((context, mask), real) != real:
            mask += "*"
        if (context, mask) not in _secrets:
            _secrets[context, mask] = real
            os.environ[VARIABLE] = json.dumps([[*place, kept] for place, kept in _secrets.items()])
        return mask

    _inherit()
    return _replaced(text, keep)


def reveal(text: str) -> str:
    """The text that `hide` was given; a mask that this process knows no secret for stays."""
    _inherit()
    if MASK not in text:
        return text
    return _replaced(text, _remembered, masks=True)


def mask(text: str) -> str:
    """Free text, such as a message of a library's or a traceback, without the secrets of the addresses in it and
    without those that were hidden before."""
    if "://" in text:
        text = _replaced(text, lambda secret, context: MASK)
    _inherit()
    forms = {form for (context, _), kept in _secrets.items() for form in _forms(kept) if form not in context}
    for secret in sorted(forms, key=len, reverse=True):  # as a word of its own: a password may be part of many others
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    return text


def lacks_secrets(text: str) -> bool:
    """Whether a secret of an address is masked whose real form this process does not know."""
    return has_masks(reveal(text))


def has_masks(text: str) -> bool:
    """Whether a secret of an address is masked."""
    secrets: list[str] = []

    def collect(secret: str, context: str) -> str:
        secrets.append(secret)
        return secret

    if MASK in text:
        _replaced(text, collect, masks=True)
    return any(STARS.fullmatch(secret) for secret in secrets)


def hide_in(value: Any) -> Any:
    """Plain values (mappings, lists, texts) with `hide` done to all texts in them. The same object where none has a
    secret."""
    return _mapped(value, hide)


def reveal_in(value: Any) -> Any:
    """Plain values with `reveal` done to all texts in them."""
    return _mapped(value, reveal)


class Formatter(logging.Formatter):
    """Lines of a log without secrets, those of a traceback too."""

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
    for (place, kept), real in _secrets.items():  # a place that was written with an interpolation in it
        if kept == secret and "${" in place:
            pattern = ".*".join(re.escape(part) for part in re.split(r"\$\{[^}]*\}", place))
            if re.fullmatch(pattern, context):
                return real
    return secret


def _replaced(text: str, replace: Replace, masks: bool = False) -> str:
    """The text with `replace` done to every secret in its addresses.

    Args:
        masks: to masks as well, which stand in the place of secrets.
    """
    if "://" not in text:
        return text
    if re.match(SCHEME, text) and not _several(text):
        return _in_address(text, replace, masks)
    text = QUOTED.sub(lambda found: _in_address(found[0], replace, masks), text)
    return BARE.sub(lambda found: _bare(found[0], replace, masks), text)


def _several(text: str) -> bool:
    return len(re.findall(SCHEME, text)) > 1 or "\n" in text


def _bare(text: str, replace: Replace, masks: bool) -> str:
    """An address whose end nothing marks: brackets that were opened before it do not belong to it."""
    end = len(text)
    depth = 0
    for place, sign in enumerate(text):
        if sign == "\\":
            continue
        if sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
            if depth < 0 and text[place - 1] != "\\":
                end = place
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
    """Where the secrets of an address are: none overlaps another."""
    if address.lower().startswith("sqlite:"):
        return []  # a path, whatever signs are in it
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
    """The secrets before the host."""
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
        if query >= 0 and PARAMETER.search(rest, query):  # the @ is one of a parameter's value
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
    """What the process that started this one has hidden."""
    global _inherited
    text = os.environ.get(VARIABLE)
    if text is None or text == _inherited:
        return
    _inherited = text
    for context, mask_, secret in json.loads(text):
        _secrets.setdefault((context, mask_), secret)


_inherited: str | None = None
