"""The cookie that holds a login's refresh token."""

from __future__ import annotations

from litestar.datastructures import Cookie, Headers

from api.errors import RequestRefused
from shared.errors import ErrorCode

# A browser keeps a `__Host-` cookie for this host only, and only if it is Secure and has the path /.
REFRESH_COOKIE = "__Host-cloudify_refresh"


def read_cookie(headers: Headers, name: str) -> str | None:
    """The cookie's value; of two, the last.

    Litestar would parse every cookie and cache a thousand such headers, whatever clients put into them.
    """
    for part in reversed(headers.get("cookie", "").split(";")):
        given, _, value = part.strip().partition("=")
        if given == name:
            return value.strip('"')
    return None


def refresh_cookie(value: str, seconds: int) -> Cookie:
    return Cookie(
        key=REFRESH_COOKIE, value=value, max_age=seconds, path="/", secure=True, httponly=True, samesite="strict"
    )


def refuse_foreign_site(headers: Headers) -> None:
    """The cookie is SameSite=Strict already; this also stops a page on another port or subdomain of the site.

    Raises RequestRefused (CSRF_REJECTED).
    """
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise RequestRefused("The request comes from another site's page.", code=ErrorCode.CSRF_REJECTED)
