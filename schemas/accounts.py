"""Accounts: signing in, sessions, API tokens and stream tickets."""

from __future__ import annotations

from datetime import datetime

import msgspec

from schemas.base import Names, Request, Resource

# Says to which accounts a browser or client has signed in before: others' wrong passwords don't count against it.
DEVICE_COOKIE = "__Host-cloudify_device"


class RegisterRequest(Request):
    email: str
    password: str
    name: str = ""


class LoginRequest(Request):
    email: str
    password: str


class UserResource(Resource):
    id: str
    email: str
    name: str
    plan: str
    image: str | None


class SignedIn(Resource):
    """`access_token` goes into `Authorization: Bearer …`; it is valid for `expires_in` seconds."""

    user: UserResource
    access_token: str
    expires_in: int


class SessionResource(Resource):
    """One login; `is_current` marks the one that asks."""

    id: str
    user_agent: str | None
    address: str | None
    is_current: bool
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime


class CreateTokenRequest(Request):
    name: str
    scopes: Names = msgspec.field(default_factory=list)
    expires_at: datetime | None = None


class TokenResource(Resource):
    id: str
    name: str
    prefix: str
    scopes: list[str]
    expires_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


class CreatedTokenResource(TokenResource):
    """`token` is shown this once."""

    token: str


class CreateStreamTicketRequest(Request):
    """Without `deployment_id`: for the account's stream of events."""

    deployment_id: str | msgspec.UnsetType = msgspec.UNSET


class StreamTicketResource(Resource):
    """`ticket` opens one stream, once, within `expires_in` seconds."""

    ticket: str
    expires_in: int
