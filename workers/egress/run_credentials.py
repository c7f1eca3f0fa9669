"""What a run shows at the egress gateways of its installation.

The user is the run's name and the time at which its access ends, the password a keyed digest of both. The key is the
token that workers and gateways share: a worker needs no gateway to make credentials, a gateway no memory to check them.
"""

from __future__ import annotations

import hmac
import re

# No run lives longer, its wait for a machine included.
LONGEST_SECONDS = 86_400
_USER = re.compile(r"([a-z0-9][a-z0-9-]{0,62})\.([0-9]{1,12})", re.ASCII)


def credentials_of(token: bytes, run: str, ends_at: int) -> str:
    """`user:password`. `run`: a DNS label; `ends_at`: seconds since the epoch. Raises ValueError for any other name."""
    user = f"{run}.{ends_at}"
    if _USER.fullmatch(user) is None:
        raise ValueError(user)
    return f"{user}:{_password(token, user)}"


def run_of(token: bytes, user: str, password: str) -> tuple[str, int] | None:
    """The run and the end of its access, which may have passed; None for credentials of another token."""
    found = _USER.fullmatch(user)
    if found is None or not hmac.compare_digest(_password(token, user).encode(), password.encode()):
        return None
    return found[1], int(found[2])


def _password(token: bytes, user: str) -> str:
    return hmac.digest(token, b"egress of a run: " + user.encode(), "sha256").hex()
