"""Bodies: JSON only, strictly typed, and every wrong field is named, not the first."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from litestar import Request

from api.errors import RequestRefused
from shared.errors import ErrorCode, ValidationFailed

T = TypeVar("T", bound=msgspec.Struct)

MAXIMUM_BODY_BYTES = 1024 * 1024
_MAXIMUM_DEPTH = 32
_MEDIA_TYPE = re.compile(r"application/(json|[\w.+-]+\+json)")
_LOCATION = re.compile(r"^(.*?)(?: - at `\$(.*)`)?$", re.DOTALL)


class JsonRequest(Request[Any, Any, Any]):
    """Litestar's request, whose `json()` gives the handler's struct or raises with all that is wrong."""

    async def json(self) -> Any:
        if not _MEDIA_TYPE.fullmatch(self.content_type[0].lower()):
            raise RequestRefused(
                "Send JSON, with Content-Type: application/json.", code=ErrorCode.UNSUPPORTED_MEDIA_TYPE
            )
        value = decode_body(await self.body())
        field = self.route_handler.parsed_data_field
        struct: Any = None if field is None else field.annotation
        return value if struct is None else validate_body(struct, value)


def decode_body(body: bytes) -> Any:
    """Raises RequestRefused (MALFORMED_JSON)."""
    try:
        value = msgspec.json.decode(body)
    except RecursionError as error:
        raise RequestRefused("The JSON is nested too deeply.", code=ErrorCode.MALFORMED_JSON) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        reason = "it is not valid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise RequestRefused(f"The body is not valid JSON: {reason}.", code=ErrorCode.MALFORMED_JSON) from error
    _check_text(value, 0)
    return value


def _check_text(value: Any, depth: int) -> None:
    """No field may hold NUL or half a surrogate pair: neither the database nor a build could."""
    if depth > _MAXIMUM_DEPTH:
        raise RequestRefused("The JSON is nested too deeply.", code=ErrorCode.MALFORMED_JSON)
    match value:
        case str():
            if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
                raise RequestRefused(
                    "The body holds a NUL character or half a surrogate pair; remove it.",
                    code=ErrorCode.VALIDATION_ERROR,
                    details={"fields": [{"field": "body", "message": "holds a NUL character or half a pair"}]},
                )
        case list():
            for item in value:  # pyright: ignore[reportUnknownVariableType]
                _check_text(item, depth + 1)
        case dict():
            for key, item in value.items():  # pyright: ignore[reportUnknownVariableType]
                _check_text(key, depth + 1)
                _check_text(item, depth + 1)
        case _:
            return


def validate_body(struct: type[T], value: Any) -> T:
    """Raises ValidationFailed with all the fields that are missing, unknown or of another type."""
    if not isinstance(value, dict):
        raise ValidationFailed({"body": "must be a JSON object"})
    problems: dict[str, str] = {}
    arguments: dict[str, Any] = {}
    body: dict[str, Any] = dict(value)  # pyright: ignore[reportUnknownArgumentType]
    for field in msgspec.structs.fields(struct):
        if field.encode_name not in body:
            if field.required:
                problems[field.encode_name] = "is required"
            continue
        try:
            arguments[field.name] = msgspec.convert(body.pop(field.encode_name), field.type)
        except msgspec.ValidationError as error:
            located = _LOCATION.match(str(error))
            message, location = located.groups() if located else (str(error), None)
            problems[field.encode_name + (location or "")] = message.replace("`", "")
    problems |= {name[:100]: "is not a known field" for name in list(body)[:50]}
    if problems:
        raise ValidationFailed(problems)
    return struct(**arguments)
