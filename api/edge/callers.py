"""The caller whose turn a request takes in a lane: its user; before sign-in its device's account, or its address."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from litestar.datastructures import Headers

from api.connections import Connection
from api.edge.device_cookie import DeviceCookies
from api.edge.turns import NOBODY, Caller
from api.session_cookie import read_cookie
from schemas.accounts import DEVICE_COOKIE
from shared.network.client_addresses import network_of

_REMEMBERED = 10_000


class Callers:
    """Remembers valid credentials, only to assign turns: an unknown credential takes the turn of its address, so that
    invented ones make no callers. Belongs to one event loop."""

    def __init__(self, device_cookies: DeviceCookies) -> None:
        self._device_cookies = device_cookies
        self._users: OrderedDict[bytes, str] = OrderedDict()

    def before_authentication(self, connection: Connection) -> Caller:
        credential = _digest(connection.headers)
        user_id = None if credential is None else self._users.get(credential)
        if user_id is not None:
            return user_caller(user_id)
        cookie = read_cookie(connection.headers, DEVICE_COOKIE)
        device = self._device_cookies.latest(cookie) if cookie else None
        if device is not None:
            return Caller(f"account {device.account}", device.name, is_known=True)
        return address_caller(connection.client.host) if connection.client else NOBODY

    def authenticated(self, connection: Connection, user_id: str) -> Caller:
        credential = _digest(connection.headers)
        if credential is not None:
            self._users[credential] = user_id
            self._users.move_to_end(credential)
            if len(self._users) > _REMEMBERED:
                self._users.popitem(last=False)
        return user_caller(user_id)


def address_caller(host: str) -> Caller:
    return Caller(network_of(host, ipv6_bits=48), network_of(host), is_known=False)


def user_caller(user_id: str) -> Caller:
    return Caller(user_id, user_id, is_known=True)


def _digest(headers: Headers) -> bytes | None:
    authorization = headers.get("authorization")
    return None if authorization is None else hashlib.sha256(authorization.encode("latin-1", "replace")).digest()
