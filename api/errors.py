"""The one table from error codes to HTTP statuses, and the one handler of all errors."""

from __future__ import annotations

import re

import structlog
from litestar import Response
from litestar.enums import ParamType
from litestar.exceptions import (
    ClientException,
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.exceptions.http_exceptions import RequestEntityTooLarge

from api.connections import PublicRequest
from api.middleware import request_id_of
from schemas.envelope import ErrorBody, Failure
from shared.errors import CloudifyError, ErrorCode, Unavailable

_log = structlog.get_logger("api")

STATUS_OF: dict[ErrorCode, int] = {
    ErrorCode.MALFORMED_JSON: 400,
    ErrorCode.INVALID_CURSOR: 400,
    ErrorCode.INVALID_SORT: 400,
    ErrorCode.INVALID_FILTER: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.INVALID_CREDENTIALS: 401,
    ErrorCode.TOKEN_EXPIRED: 401,
    ErrorCode.SESSION_REVOKED: 401,
    ErrorCode.PLAN_LIMIT: 402,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.SCOPE_ESCALATION: 403,
    ErrorCode.CSRF_REJECTED: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.CONFLICT: 409,
    ErrorCode.SLUG_TAKEN: 409,
    ErrorCode.IDEMPOTENCY_IN_PROGRESS: 409,
    ErrorCode.ALREADY_FINISHED: 409,
    ErrorCode.DEPLOYMENT_ACTIVE: 409,
    ErrorCode.PROJECT_DELETING: 409,
    ErrorCode.NOT_READY: 409,
    ErrorCode.ARTIFACT_EXPIRED: 409,
    ErrorCode.REQUEST_TIMEOUT: 408,
    ErrorCode.PAYLOAD_TOO_LARGE: 413,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.MISDIRECTED_REQUEST: 421,
    ErrorCode.VALIDATION_ERROR: 422,
    ErrorCode.IDEMPOTENCY_MISMATCH: 422,
    ErrorCode.URL_FORBIDDEN: 422,
    ErrorCode.LOGIN_THROTTLED: 429,
    ErrorCode.STREAM_LIMIT: 429,
    ErrorCode.INTERNAL: 500,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.QUEUE_UNAVAILABLE: 503,
}


class RequestRefused(CloudifyError):
    """The request's form is wrong: its JSON, its media type, its query."""


def handle_error(request: PublicRequest, error: Exception) -> Response[Failure]:
    """Litestar's handler for every exception, its own 404 and 405 included."""
    known = error if isinstance(error, CloudifyError) else _translate(request, error)
    if known is None:
        _log.error("unhandled_error", exc_info=error, request_id=request_id_of(request.scope))
        known = CloudifyError("Something went wrong on our side; if it persists, report it with the request id.")
    status = STATUS_OF[known.code]
    headers: dict[str, str] = {}
    if isinstance(known, Unavailable):
        headers["Retry-After"] = str(known.retry_after_seconds)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowedException):
        headers["Allow"] = _allowed((error.headers or {}).get("allow", ""))
    body = ErrorBody(
        code=known.code.value, message=known.message, request_id=request_id_of(request.scope), details=known.details
    )
    return Response(Failure(error=body), status_code=status, headers=headers, media_type="application/json")


def _translate(request: PublicRequest, error: Exception) -> CloudifyError | None:
    """Litestar's own errors as ours; None for unexpected ones."""
    match error:
        case ValidationException():
            return _validation(error)
        case NotFoundException():
            return RequestRefused("There is nothing at this address; see /api/docs.", code=ErrorCode.NOT_FOUND)
        case MethodNotAllowedException():
            return RequestRefused(
                "This address doesn't support the method; see the Allow header.", code=ErrorCode.METHOD_NOT_ALLOWED
            )
        case RequestEntityTooLarge():
            most = (request.route_handler.resolve_request_max_body_size() or 0) // 1024
            return RequestRefused(f"The body is larger than {most} KiB; send less.", code=ErrorCode.PAYLOAD_TOO_LARGE)
        case ClientException():
            return RequestRefused(f"The request is malformed: {error.detail}.", code=ErrorCode.MALFORMED_JSON)
        case HTTPException() if error.status_code < 500:
            return RequestRefused(f"The request is malformed: {error.detail}.", code=ErrorCode.MALFORMED_JSON)
        case _:
            return None


def _validation(error: ValidationException) -> CloudifyError:
    """Query parameters are 400, path parameters 404, bodies 422."""
    problems: list[dict[str, object]] = error.extra if isinstance(error.extra, list) else []
    sources = {problem.get("source") for problem in problems}
    fields = [
        {"field": _camel(str(problem.get("key", "body"))), "message": str(problem.get("message", "is not valid"))}
        for problem in problems
    ]
    text = "; ".join(f"{field['field']}: {field['message']}" for field in fields) or error.detail
    if ParamType.PATH in sources:
        return RequestRefused("There is nothing at this address; see /api/docs.", code=ErrorCode.NOT_FOUND)
    if "body" in sources or any(field["field"] == "data" for field in fields):
        body = [{"field": "body", "message": "must be a JSON object"}]
        return RequestRefused("body: must be a JSON object", code=ErrorCode.VALIDATION_ERROR, details={"fields": body})
    return RequestRefused(f"The query is not valid: {text}.", code=ErrorCode.INVALID_FILTER, details={"fields": fields})


def _camel(name: str) -> str:
    """A parameter's name in the API."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def _allowed(methods: str) -> str:
    """HEAD works where GET does."""
    names = {name.strip() for name in methods.split(",") if name.strip()}
    return ", ".join(sorted(names | ({"HEAD"} if "GET" in names else set())))
