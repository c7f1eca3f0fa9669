"""What an examination finds."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable

import msgspec

from shared.errors import CloudifyError


class Status(enum.StrEnum):
    OK = "ok"
    WARNING = "warning"  # it works, and not as well as it could
    PROBLEM = "problem"  # something doesn't work


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`subject`: what was looked at. `advice`: what to do, "" if there is nothing to do."""

    subject: str
    status: Status
    message: str
    advice: str = ""


# Returns its findings, one or more. May raise CloudifyError and OSError; `examine` makes a problem of them.
Check = Callable[[], Iterable[Finding]]


def ok(subject: str, message: str) -> Finding:
    return Finding(subject=subject, status=Status.OK, message=message)


def warning(subject: str, message: str, advice: str) -> Finding:
    return Finding(subject=subject, status=Status.WARNING, message=message, advice=advice)


def problem(subject: str, message: str, advice: str) -> Finding:
    return Finding(subject=subject, status=Status.PROBLEM, message=message, advice=advice)


def examine(subject: str, check: Check, advice: str) -> list[Finding]:
    """The findings of a check. `advice` is what to do if it fails."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except (CloudifyError, OSError) as error:
        found.append(problem(subject, str(error), advice))
    except Exception as error:  # noqa: BLE001 - whatever is wrong, the other checks are made
        found.append(problem(subject, f"{type(error).__name__}: {error}", advice))
    return found
