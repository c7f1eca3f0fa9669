"""The keys that a platform makes for itself, once."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PlatformKeys:
    """Values of CLOUDIFY_SECRET_KEY, CLOUDIFY_ENCRYPTION_KEYS and CLOUDIFY_EGRESS_TOKEN."""

    secret_key: str = field(repr=False)
    encryption_keys: str = field(repr=False)
    egress_token: str = field(repr=False)

    @classmethod
    def generate(cls) -> PlatformKeys:
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        return cls(secret_key=secrets.token_hex(32), encryption_keys=f"first:{key}", egress_token=secrets.token_hex(32))
