"""The OpenAPI document's names of types."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from litestar import Litestar, get

from api.openapi import Description, openapi_config
from schemas.envelope import Success


class Inner(msgspec.Struct):
    text: str


class Outer(msgspec.Struct):
    inner: Success[list[Inner]]
    next: Outer | None = None


OtherInner = msgspec.defstruct("Inner", [("number", int)], module="elsewhere")


@get("/outer", sync_to_thread=False)
def get_outer() -> Success[Outer | None]:
    raise NotImplementedError


@get("/inner", sync_to_thread=False)
def get_inner() -> Success[Inner]:
    raise NotImplementedError


@get("/other", sync_to_thread=False)
def get_other() -> Success[OtherInner]:  # type: ignore[valid-type]
    raise NotImplementedError


def described(*handlers: Any) -> dict[str, Any]:
    application = Litestar(list(handlers), openapi_config=openapi_config())
    return json.loads(Description(application).schema)


def test_components_and_references_have_the_names_of_types() -> None:
    schema = described(get_outer, get_inner)
    components = schema["components"]["schemas"]
    own = set(components) - {"ErrorCode", "Failure", "Meta", "Pagination", "RateLimit", "Timing"}
    assert own == {"Inner", "Outer", "SuccessInner", "SuccessListInner", "SuccessOuterOrNone"}
    assert all(components[name]["title"] == name for name in own)
    answer = schema["paths"]["/outer"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/SuccessOuterOrNone"}
    assert components["Outer"]["properties"]["inner"] == {"$ref": "#/components/schemas/SuccessListInner"}
    assert components["SuccessListInner"]["properties"]["data"]["items"] == {"$ref": "#/components/schemas/Inner"}


def test_two_types_of_one_name_stay_apart() -> None:
    schema = described(get_inner, get_other)
    components = schema["components"]["schemas"]
    for path, field in {"/inner": "text", "/other": "number"}.items():
        answer = schema["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        data = components[answer["$ref"].rpartition("/")[2]]["properties"]["data"]
        assert list(components[data["$ref"].rpartition("/")[2]]["properties"]) == [field]
