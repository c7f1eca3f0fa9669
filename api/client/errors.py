"""What can go wrong for a user of the command, and the exit code that says so to a script."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Documented in README.md; scripts depend on the numbers."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_AUTHENTICATED = 3
    NOT_FOUND = 4
    CANCELLED = 5
    UNREACHABLE = 6
    DETACHED = 130


class ClientError(Exception):
    """Stops a command: `message` is a sentence, `advice` says what to do next (empty when the message does)."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, advice: str = "", *, exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        if exit_code is not None:
            self.exit_code = exit_code

    def describe(self) -> dict[str, object]:
        """What `--json` prints under `error`."""
        return {"code": self.exit_code.name, "message": self.message}


class Unreachable(ClientError):
    """No answer, or not one of this API's."""

    exit_code = ExitCode.UNREACHABLE


class ApiError(ClientError):
    """The API said no. `code` is one of shared.errors.ErrorCode or, from something in between, `HTTP_<status>`.

    `details` is the error's `details` object, {} without one; `request_id` finds the request in the API's log.
    """

    def __init__(
        self,
        code: str,
        message: str,
        status: int,
        request_id: str | None,
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message, _advice(code, status), exit_code=_exit_code(status))
        self.code = code
        self.status = status
        self.request_id = request_id
        self.details = details or {}

    def describe(self) -> dict[str, object]:
        described: dict[str, object] = {"code": self.code, "message": self.message, "status": self.status}
        if self.details:
            described["details"] = self.details
        if self.request_id is not None:
            described["requestId"] = self.request_id
        return described


def _exit_code(status: int) -> ExitCode:
    if status in (401, 403):
        return ExitCode.NOT_AUTHENTICATED
    if status in (404, 410):
        return ExitCode.NOT_FOUND
    if status in (400, 405, 412, 413, 415, 422):
        return ExitCode.USAGE
    if status in (429, 502, 503, 504):
        return ExitCode.UNREACHABLE
    return ExitCode.FAILED


def _advice(code: str, status: int) -> str:
    if code == "INVALID_CREDENTIALS":
        return "Check the e-mail address and the password and run `cloudify login` again."
    if status == 401:
        return "Run `cloudify login`, or set CLOUDIFY_TOKEN to a valid token."
    if code == "FORBIDDEN":
        return "Ask an owner of the project for a greater role, or use a token with wider scopes."
    if status in (429, 503):
        return "Wait a moment and run the command again."
    if status >= 500:
        return "Run the command again. If it fails again, give the request id to the platform's operator."
    return ""
