"""The product's errors, by what callers can do about them.

They have no HTTP statuses: the one table from codes to statuses is in `api/errors.py`.
"""

from __future__ import annotations

from typing import Any

from shared.error_codes import ErrorCode, FailureCode


class CloudifyError(Exception):
    """An error that the caller can act on.

    `message` says in one or two sentences what to do next; `details` is JSON-serialisable.
    """

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(self, message: str, *, code: ErrorCode | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        if code is not None:
            self.code = code


class NotFound(CloudifyError):
    code = ErrorCode.NOT_FOUND


class Conflict(CloudifyError):
    code = ErrorCode.CONFLICT


class Forbidden(CloudifyError):
    code = ErrorCode.FORBIDDEN


class Unauthenticated(CloudifyError):
    code = ErrorCode.UNAUTHENTICATED


class PlanLimit(CloudifyError):
    code = ErrorCode.PLAN_LIMIT


class Unavailable(CloudifyError):
    """A dependency is down or overloaded. `retry_after_seconds` becomes `Retry-After`."""

    code = ErrorCode.UNAVAILABLE

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode | None = None,
        details: dict[str, Any] | None = None,
        retry_after_seconds: int = 5,
    ) -> None:
        super().__init__(message, code=code, details=details)
        self.retry_after_seconds = retry_after_seconds


class ValidationFailed(CloudifyError):
    """`fields` maps the names of all invalid fields to their problems."""

    code = ErrorCode.VALIDATION_ERROR

    def __init__(self, fields: dict[str, str], *, code: ErrorCode | None = None) -> None:
        message = "; ".join(f"{field}: {problem}" for field, problem in fields.items())
        super().__init__(
            message,
            code=code,
            details={"fields": [{"field": field, "message": problem} for field, problem in fields.items()]},
        )


class StageFailure(Exception):
    """A failure that the user has to fix: the deployment fails at once and is not retried."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class PlatformError(Exception):
    """A failure of the platform: the stage is retried with backoff."""


class Cancelled(Exception):
    """The deployment was cancelled during the stage; none of its processes is left."""


class LeaseLost(Exception):
    """Another worker has the job now: stop without writing anything."""
