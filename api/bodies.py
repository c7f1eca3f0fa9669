"""Bodies: JSON only, strictly typed; errors name every invalid field, not only the first.

No Python code walks a body: the parser splits it into the raw values of the struct's fields, and only those are
decoded, each to its type. The parser skips everything else, so that it makes no objects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import NoReturn, TypeVar

import msgspec

from api.connections import PublicRequest
from api.edge.lanes import Lanes, run_in
from api.errors import RequestRefused
from shared.errors import ErrorCode, ValidationFailed

T = TypeVar("T", bound=msgspec.Struct)

MAXIMUM_BODY_BYTES = 1024 * 1024
# Of routes whose bodies hold nothing long, such as those to sign in.
SMALL_BODY_BYTES = 16 * 1024
# Of routes whose bodies hold a few fields: commands, addresses, a key.
MEDIUM_BODY_BYTES = 64 * 1024
# Of routes whose bodies hold one value of 64 KiB, of which JSON's escapes may make six times as much.
VALUE_BODY_BYTES = 512 * 1024
# Larger ones are decoded in a thread.
_LARGE_BYTES = 64 * 1024
_MEDIA_TYPE = re.compile(r"application/(json|[\w.+-]+\+json)")
_LOCATION = re.compile(r"^(.*?)(?: - at `\$(.*)`)?$", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = msgspec.Raw()


class JsonRequest(PublicRequest):
    """Litestar's request; `json()` returns the handler's struct or raises an error that names every problem."""

    async def json(self) -> msgspec.Struct:
        if not _MEDIA_TYPE.fullmatch(self.content_type[0].lower()):
            raise RequestRefused(
                "Send JSON, with Content-Type: application/json.", code=ErrorCode.UNSUPPORTED_MEDIA_TYPE
            )
        body = await self.body()
        field = self.route_handler.parsed_data_field
        if field is None:
            raise RuntimeError("Only handlers that take `data` have a body.")
        struct: type[msgspec.Struct] = field.annotation
        if len(body) <= _LARGE_BYTES:
            return decode_body(struct, body)
        lanes: Lanes = self.app.state.lanes
        return await run_in(lanes.bodies, partial(decode_body, struct, body))


def decode_body(struct: type[T], body: bytes) -> T:
    """Raises RequestRefused (MALFORMED_JSON), ValidationFailed with all the fields that are missing, unknown or of
    another type. Of the unknown ones in a large body only the first is named."""
    values, unknown = _split(struct, body)
    # Without escaped backslashes, this can only be the escape of a NUL: neither the database nor a build could hold it.
    if b"\\u0000" in body and b"\\u0000" in body.replace(b"\\\\", b""):
        raise ValidationFailed({"body": "holds a NUL character; remove it"})
    problems: dict[str, str] = {}
    arguments: dict[str, object] = {}
    for field in msgspec.structs.fields(struct):
        raw = values.get(field.encode_name)
        if raw is None:
            if field.required:
                problems[field.encode_name] = "is required"
            continue
        try:
            arguments[field.name] = msgspec.json.decode(raw, type=field.type)
        except msgspec.ValidationError as error:
            located = _LOCATION.match(str(error))
            message, location = located.groups() if located else (str(error), None)
            problems[field.encode_name + (location or "")] = message.replace("`", "")
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            _refuse(error)
    problems |= {name[:100]: "is not a known field" for name in unknown}
    if problems:
        raise ValidationFailed(problems)
    return struct(**arguments)


def _split(struct: type[msgspec.Struct], body: bytes) -> tuple[Mapping[str, msgspec.Raw], list[str]]:
    """The raw values of the struct's fields by their names in JSON, and names of other fields."""
    lenient, strict = _raw_structs(struct)
    try:
        if len(body) <= _LARGE_BYTES:
            found = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            known = {field.encode_name for field in msgspec.structs.fields(struct)}
            return found, [name for name in found if name not in known][:50]
        values = msgspec.structs.asdict(msgspec.json.decode(body, type=lenient))
    except msgspec.ValidationError as error:
        raise ValidationFailed({"body": "must be a JSON object"}) from error
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        _refuse(error)
    try:
        msgspec.json.decode(body, type=strict)
        unknown: list[str] = []
    except msgspec.ValidationError as error:
        named = _UNKNOWN_FIELD.match(str(error))
        unknown = [named[1] if named else "body"]
    return {name: raw for name, raw in values.items() if raw is not _MISSING}, unknown


@lru_cache
def _raw_structs(struct: type[msgspec.Struct]) -> tuple[type[msgspec.Struct], type[msgspec.Struct]]:
    """Structs with the same fields, undecoded; the second refuses other fields."""
    fields = [(field.encode_name, msgspec.Raw, _MISSING) for field in msgspec.structs.fields(struct)]
    name = f"Raw{struct.__name__}"
    return msgspec.defstruct(name, fields), msgspec.defstruct(name, fields, forbid_unknown_fields=True)


def _refuse(error: Exception) -> NoReturn:
    match error:
        case RecursionError():
            reason = "it is nested too deeply"
        case UnicodeDecodeError():
            reason = "it is not valid UTF-8"
        case _:
            reason = str(error)
    raise RequestRefused(f"The body is not valid JSON: {reason}.", code=ErrorCode.MALFORMED_JSON) from error
