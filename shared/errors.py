"""Errors of the product: what a caller can act on, told apart by kind.

No HTTP status lives here: `api/errors.py` holds the one table that maps a code to a status.
"""

from __future__ import annotations

import enum
from typing import Any


class ErrorCode(enum.StrEnum):
    """Every code a client of the API can meet."""

    MALFORMED_JSON = "MALFORMED_JSON"
    INVALID_CURSOR = "INVALID_CURSOR"
    INVALID_SORT = "INVALID_SORT"
    INVALID_FILTER = "INVALID_FILTER"
    TOKEN_INVALID = "TOKEN_INVALID"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    INVALID_CREDENTIALS = "INVALID_CREDENTIALS"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    SESSION_REVOKED = "SESSION_REVOKED"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    PLAN_LIMIT = "PLAN_LIMIT"
    FORBIDDEN = "FORBIDDEN"
    SCOPE_ESCALATION = "SCOPE_ESCALATION"
    CSRF_REJECTED = "CSRF_REJECTED"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    CONFLICT = "CONFLICT"
    SLUG_TAKEN = "SLUG_TAKEN"
    DOMAIN_TAKEN = "DOMAIN_TAKEN"
    DNS_NOT_READY = "DNS_NOT_READY"
    IDEMPOTENCY_IN_PROGRESS = "IDEMPOTENCY_IN_PROGRESS"
    ALREADY_FINISHED = "ALREADY_FINISHED"
    DEPLOYMENT_ACTIVE = "DEPLOYMENT_ACTIVE"
    PROJECT_DELETING = "PROJECT_DELETING"
    NOT_READY = "NOT_READY"
    ARTIFACT_EXPIRED = "ARTIFACT_EXPIRED"
    LAST_OWNER = "LAST_OWNER"
    TEAM_NOT_EMPTY = "TEAM_NOT_EMPTY"
    ALREADY_MEMBER = "ALREADY_MEMBER"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    EXPIRED = "EXPIRED"
    PRECONDITION_FAILED = "PRECONDITION_FAILED"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    MISDIRECTED_REQUEST = "MISDIRECTED_REQUEST"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    IDEMPOTENCY_MISMATCH = "IDEMPOTENCY_MISMATCH"
    URL_FORBIDDEN = "URL_FORBIDDEN"
    RATE_LIMITED = "RATE_LIMITED"
    LOGIN_THROTTLED = "LOGIN_THROTTLED"
    STREAM_LIMIT = "STREAM_LIMIT"
    INTERNAL = "INTERNAL"
    UPSTREAM_ERROR = "UPSTREAM_ERROR"
    UNAVAILABLE = "UNAVAILABLE"
    QUEUE_UNAVAILABLE = "QUEUE_UNAVAILABLE"


class FailureCode(enum.StrEnum):
    """Why a deployment failed. All but PLATFORM_ERROR and WORKER_LOST are the user's to mend."""

    REPOSITORY_NOT_FOUND = "REPOSITORY_NOT_FOUND"
    REPOSITORY_AUTHENTICATION = "REPOSITORY_AUTHENTICATION"
    REPOSITORY_UNREACHABLE = "REPOSITORY_UNREACHABLE"
    REPOSITORY_EMPTY = "REPOSITORY_EMPTY"
    REPOSITORY_TOO_LARGE = "REPOSITORY_TOO_LARGE"
    REPOSITORY_LFS_MISSING = "REPOSITORY_LFS_MISSING"
    URL_FORBIDDEN = "URL_FORBIDDEN"
    BRANCH_NOT_FOUND = "BRANCH_NOT_FOUND"
    COMMIT_NOT_FOUND = "COMMIT_NOT_FOUND"
    ROOT_DIRECTORY_NOT_FOUND = "ROOT_DIRECTORY_NOT_FOUND"
    PROJECT_NOT_RECOGNISED = "PROJECT_NOT_RECOGNISED"
    CONFIGURATION_INVALID = "CONFIGURATION_INVALID"
    COMMAND_NOT_ALLOWED = "COMMAND_NOT_ALLOWED"
    LOCKFILE_MISMATCH = "LOCKFILE_MISMATCH"
    COMMAND_FAILED = "COMMAND_FAILED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    DISK_FULL = "DISK_FULL"
    OUTPUT_DIRECTORY_MISSING = "OUTPUT_DIRECTORY_MISSING"
    OUTPUT_DIRECTORY_EMPTY = "OUTPUT_DIRECTORY_EMPTY"
    OUTPUT_TOO_LARGE = "OUTPUT_TOO_LARGE"
    OUTPUT_INVALID = "OUTPUT_INVALID"
    PLATFORM_ERROR = "PLATFORM_ERROR"
    WORKER_LOST = "WORKER_LOST"


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


class Snooze(Exception):
    """Not yet: put the job back and deliver it again after `delay_seconds`; counts as no attempt."""

    def __init__(self, delay_seconds: float, reason: str) -> None:
        super().__init__(reason)
        self.delay_seconds = delay_seconds
        self.reason = reason
