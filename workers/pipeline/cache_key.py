"""Names a stage's output by what went into it, and says in words why such a name was not found."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

from shared.text.written import is_written_text

_DIGEST = re.compile(r"[0-9a-f]{32,}")
_LONGEST_SHOWN = 40


def cache_key(components: Mapping[str, str]) -> str:
    """The SHA-256, in hex, of the components (name → version, digest or command), whatever their order."""
    text = json.dumps(dict(components), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def explain_miss(components: Mapping[str, str], previous: Mapping[str, str] | None) -> str:
    """Why `components` has another key than `previous`: "lockfile changed, node 20 → 22".

    Digests and long values are only said to have changed. `previous` is None when there was nothing to find.
    """
    if previous is None:
        return "nothing cached yet"
    reasons = [
        _difference(name, previous.get(name), components.get(name))
        for name in dict.fromkeys([*components, *previous])
        if previous.get(name) != components.get(name)
    ]
    return ", ".join(reasons) or "the cached output was removed"


def _difference(name: str, before: str | None, now: str | None) -> str:
    label = name if name.startswith("variable ") else name.replace("_", " ")
    if not before:
        return f"{label} added"
    if not now:
        return f"{label} removed"
    if _is_opaque(before) or _is_opaque(now):
        return f"{label} changed"
    return f"{label} {before} → {now}"


def _is_opaque(value: str) -> bool:
    return len(value) > _LONGEST_SHOWN or not is_written_text(value) or _DIGEST.fullmatch(value) is not None
