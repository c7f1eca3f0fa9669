"""Bases of what the API accepts and shows. JSON is camelCase; times are ISO 8601 in UTC."""

from __future__ import annotations

from typing import Annotated

import msgspec

Names = Annotated[list[str], msgspec.Meta(max_length=100)]


class Request(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of all request structs. What a struct can't say is checked in the service, all fields at once."""


class Resource(msgspec.Struct, kw_only=True, rename="camel"):
    """Base of all response structs."""
