"""Whose turn a request takes in a lane: its user's, or before sign-in its address's."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

from litestar.connection import ASGIConnection

from shared.network.client_addresses import network_of

_REMEMBERED = 10_000


class Callers:
    """Remembers which credentials were good, for their turns alone: a credential that isn't known takes the turn of its
    address, so that invented ones make no callers. Belongs to one event loop."""

    def __init__(self) -> None:
        self._users: OrderedDict[bytes, str] = OrderedDict()

    def before_authentication(self, connection: ASGIConnection[Any, Any, Any, Any]) -> str:
        credential = _digest(connection)
        user_id = None if credential is None else self._users.get(credential)
        if user_id is not None:
            return user_id
        return network_of(connection.client.host) if connection.client else ""

    def authenticated(self, connection: ASGIConnection[Any, Any, Any, Any], user_id: str) -> str:
        credential = _digest(connection)
        if credential is not None:
            self._users[credential] = user_id
            self._users.move_to_end(credential)
            if len(self._users) > _REMEMBERED:
                self._users.popitem(last=False)
        return user_id


def _digest(connection: ASGIConnection[Any, Any, Any, Any]) -> bytes | None:
    authorization = connection.headers.get("authorization")
    return None if authorization is None else hashlib.sha256(authorization.encode("latin-1", "replace")).digest()
