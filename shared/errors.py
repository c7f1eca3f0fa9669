"""Errors of the product: what a caller can act on, told apart by kind."""

from __future__ import annotations

from typing import Any

from shared.error_codes import ErrorCode, FailureCode


class CloudifyError(Exception):
    """An outcome that a caller can act on.

    `message` is one or two sentences that say what to do next; `details` is JSON-serialisable.
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
    """A dependency is down or full; `retry_after_seconds` becomes `Retry-After`."""

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
    """`fields` maps a field's name to what is wrong with it; all of them, not the first."""

    code = ErrorCode.VALIDATION_ERROR

    def __init__(self, fields: dict[str, str], *, code: ErrorCode | None = None) -> None:
        message = "; ".join(f"{field}: {problem}" for field, problem in fields.items())
        super().__init__(
            message,
            code=code,
            details={"fields": [{"field": field, "message": problem} for field, problem in fields.items()]},
        )


class StageFailure(Exception):
    """The user's failure: the deployment fails at once with this reason and is not retried."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class PlatformError(Exception):
    """The platform's failure: the stage is retried with backoff."""


class Cancelled(Exception):
    """The deployment was cancelled while the stage ran; nothing of it is left running."""


class LeaseLost(Exception):
    """Another worker owns the job now: write nothing, stop."""
