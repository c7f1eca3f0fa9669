"""HTTP responses that git received, from git's own trace: statuses and headers only, never a body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from shared.text.written import is_written_text

_MAXIMUM_SHOWN = 300
# Enough for the trace of a whole fetch; the rest is ignored.
_MAXIMUM_TRACE = 4 << 20
_HEADER = re.compile(r"<= Recv header: ?(.*)$")
_REQUEST = re.compile(r"=> Send header: ([A-Z]+) \S+ HTTP/[0-9.]+$")
_STATUS = re.compile(r"HTTP/[0-9.]+ (\d{3})\b")
_SMART = re.compile(r"application/x-git-[a-z-]+", re.IGNORECASE)
_WORDS = re.compile(r"[\w.+-]+/[\w.+-]+")
_SIGN_IN = re.compile(r"login|log-in|logon|sign[-_]?in|signin|/auth|oauth|saml|sso\b", re.IGNORECASE)
# Cloudflare answers 520 to 527 if the server behind it fails.
_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 528)})
_REFERENCES = "/info/refs"
_KINDS: Mapping[str, str] = {
    "text/html": "a web page (text/html), as sign-in pages and firewalls do,",
    "application/json": "JSON (application/json)",
}


@dataclass(slots=True)
class HttpAnswer:
    """`headers` by lower-case name; of repeated headers, the last."""

    status: int
    headers: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def is_git(self) -> bool:
        """Whether it is a response of git's smart protocol (gitprotocol-http(5))."""
        return _SMART.match(self.headers.get("content-type", "")) is not None

    @property
    def kind(self) -> str:
        """The content type in words."""
        found = _WORDS.match(self.headers.get("content-type", ""))
        if found is None:
            return "a response without a content type"
        return _KINDS.get(found[0].lower(), f"{found[0][:60].lower()}")

    @property
    def is_transient(self) -> bool:
        """Whether a later try may succeed. Some servers limit rates with 403."""
        is_limited = self.headers.get("x-ratelimit-remaining") == "0" or "retry-after" in self.headers
        return self.status in _TRANSIENT_STATUSES or (self.status == 403 and is_limited)

    @property
    def retry_after_seconds(self) -> float | None:
        """None if the header is missing or malformed (RFC 9110, 10.2.3)."""
        return retry_after_seconds(self.headers.get("retry-after", ""))

    def moved_to(self, asked: str) -> str | None:
        """The repository's new address if it redirects to one. `asked`: the address that was requested."""
        target = self._target(asked)
        if target is None or not target.endswith(_REFERENCES):
            return None
        return target.removesuffix(_REFERENCES)

    def sign_in_page(self, asked: str) -> str | None:
        """The redirect's target if it looks like a sign-in page. `asked`: the address that was requested."""
        target = self._target(asked)
        if target is None or target.endswith(_REFERENCES):
            return None
        return target if _SIGN_IN.search(target.partition("://")[2]) else None

    def _target(self, asked: str) -> str | None:
        """The redirect's target without query and credentials, for messages."""
        if not 300 <= self.status < 400:
            return None
        try:
            parts = urlsplit(urljoin(f"{asked}{_REFERENCES}", self.headers.get("location", "")))
        except ValueError:
            return None
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        return shown if len(shown) <= _MAXIMUM_SHOWN and is_written_text(shown) else None


def retry_after_seconds(value: str) -> float | None:
    """Seconds that a `Retry-After` header asks to wait, or None if it is malformed."""
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


def read_trace(path: Path) -> list[HttpAnswer]:
    """Reads the responses from a file that git wrote as GIT_TRACE_CURL, in order; empty if there is no file.

    A proxy's response to CONNECT is left out, because it isn't the host's.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAXIMUM_TRACE).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    answers: list[HttpAnswer] = []
    is_of_proxy = False
    for line in text.splitlines():
        request = _REQUEST.search(line)
        if request is not None:
            is_of_proxy = request[1] == "CONNECT"
        found = _HEADER.search(line)
        if found is None or is_of_proxy:
            continue
        status = _STATUS.match(found[1])
        if status is not None:
            answers.append(HttpAnswer(int(status[1])))
        elif answers:
            name, _, value = found[1].partition(":")
            answers[-1].headers[name.strip().lower()] = value.strip()[:1000]
    return answers
