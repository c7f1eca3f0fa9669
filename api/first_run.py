"""`python -m api.first_run`: migrates the database and creates the first owner and token.

`cloudify up` runs it at every start, in a process of its own so that the supervisor stays small. Can be repeated, also
after a crash at any point.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from api.backends import connect_backends
from api.services import build_account_services
from shared.accounts.api_tokens import token_hash
from shared.accounts.token_repository import TokenRepository
from shared.clock import SystemClock
from shared.db.migrate import MigrationError, migrate
from shared.errors import CloudifyError
from shared.settings import Settings, SettingsError, load_settings
from shared.stack.errors import StackError
from shared.stack.home import read_private, write_private

_OWNER = "owner@localhost"
_TOKEN = "cloudify up"


def prepare(settings: Settings) -> None:
    """Raises MigrationError, CloudifyError and StackError."""
    migrate(settings.database.url)
    path = settings.directories.home / "credentials.json"
    host = "127.0.0.1" if settings.api.host in ("0.0.0.0", "::") else settings.api.host
    backends = connect_backends(settings)
    try:
        stored = _stored(path)
        token = stored.get("token")
        known = TokenRepository(backends.database).find_active(token_hash(token)) if isinstance(token, str) else None
        if known is None or known.is_expired:
            accounts, tokens = build_account_services(settings, backends, SystemClock())
            owner = accounts.ensure_owner(_OWNER)
            token = tokens.create_for_platform(owner.user_id, _TOKEN).token
        wanted = {"apiUrl": f"http://{host}:{settings.api.port}", "token": token}
        if stored != wanted:
            write_private(path, wanted)
    finally:
        backends.close()


def _stored(path: Path) -> dict[str, object]:
    """Empty if the file is missing or damaged: a new token replaces it."""
    try:
        found = read_private(path)
    except StackError:
        return {}
    return found if isinstance(found, dict) else {}


def main() -> int:
    try:
        prepare(load_settings(os.environ))
    except (SettingsError, MigrationError, StackError, CloudifyError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - shown where the process was started
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
