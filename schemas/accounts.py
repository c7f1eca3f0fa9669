"""What signing in answers with."""

from __future__ import annotations

from datetime import datetime

from schemas.deployments import Resource, UserResource

# Says to which accounts a browser or client has signed in before: others' wrong passwords don't count against it.
DEVICE_COOKIE = "__Host-cloudify_device"


class SignedIn(Resource):
    """`access_token` goes into `Authorization: Bearer …`; it is valid for `expires_in` seconds."""

    user: UserResource
    access_token: str
    expires_in: int


class StreamTicketResource(Resource):
    """`ticket` opens one stream, once, within `expires_in` seconds."""

    ticket: str
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
