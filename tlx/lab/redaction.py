"""Secrets of addresses, kept out of everything that is shown, stored or sent."""

from __future__ import annotations

import contextlib
import re
import urllib.parse

SHORTEST = 3  # characters; a shorter secret would blank half of every message
SECRET_NAMES = re.compile(
    r"(?i)((?:password|passwd|pwd|token|secret|signature|api[_-]?key|access[_-]?key)\s*=)"
    r"[^&\s'\";]+"
)
# bounded, so that it takes time in proportion to the text
USERINFO = re.compile(r"(://)(?!/)(?:[^\s'\"/@:]{0,200}:[^\s'\"]{0,2000}|[^\s'\"/]{0,2000})@")
_secrets: set[str] = set()  # of this process: what must never be shown, in every spelling


def redact(text: object) -> str:
    """Return `text` without the passwords and tokens of addresses."""
    shown = USERINFO.sub(r"\1***@", str(text))
    shown = SECRET_NAMES.sub(r"\1***", shown)
    for secret in sorted(_secrets, key=len, reverse=True):
        shown = shown.replace(secret, "***")
    return shown


def public_address(url: str) -> str:
    """Return `url` without user name, password and query, any of which may be a secret."""
    return USERINFO.sub(r"\1", url).partition("?")[0]


def remember_uri(uri: str) -> None:
    """Hide from now on the password and the secret options of an address, wherever they appear."""
    with contextlib.suppress(ValueError):  # a broken address keeps its general redaction
        parts = urllib.parse.urlsplit(uri)
        remember_secret(parts.password or "")
        for name, value in urllib.parse.parse_qsl(parts.query):
            if SECRET_NAMES.search(f"{name}=x"):
                remember_secret(value)


def remember_secret(value: str) -> None:
    """Hide a secret from now on, in every spelling of an address."""
    if len(value) < SHORTEST:  # what stands in an address is hidden by its form
        return
    plain = urllib.parse.unquote(value)
    quoted = (urllib.parse.quote(plain, safe=""), urllib.parse.quote_plus(plain))
    _secrets.update((value, plain, *quoted))
