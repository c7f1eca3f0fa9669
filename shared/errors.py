"""The product's errors, by what callers can do about them.

They have no HTTP statuses: the one table from codes to statuses is in `api/errors.py`.
"""

from __future__ import annotations

import enum
from typing import Any


class ErrorCode(enum.StrEnum):
    """All error codes of the API."""

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
    """Why a deployment failed. The user can fix all but PLATFORM_ERROR and WORKER_LOST."""

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
