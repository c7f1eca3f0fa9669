"""The keys that a platform makes for itself, once."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PlatformKeys:
    """Values of CLOUDIFY_SECRET_KEY and CLOUDIFY_ENCRYPTION_KEYS."""

    secret_key: str = field(repr=False)
    encryption_keys: str = field(repr=False)

    @classmethod
    def generate(cls) -> PlatformKeys:
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        return cls(secret_key=secrets.token_hex(32), encryption_keys=f"first:{key}")
