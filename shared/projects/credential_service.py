"""Repository credentials: write-only for clients, decrypted only for clones."""

from __future__ import annotations

import json

from schemas.projects import RepositoryCredentialsResource, SetRepositoryCredentialsRequest
from shared.db.database import Connection, Database
from shared.errors import CloudifyError, NotFound, PlatformError, ValidationFailed
from shared.projects.credential_repository import CredentialsRow, NewCredentials, RepositoryCredentialRepository
from shared.projects.repository_credentials import (
    DEFAULT_USERNAME,
    MAXIMUM_TOKEN,
    MAXIMUM_USERNAME,
    DeployKey,
    RepositoryCredentials,
    parse_deploy_key,
)
from shared.projects.repository_url import RepositoryUrl, parse_repository_url
from shared.projects.variable_service import Rotation
from shared.secrets_box import SecretsBox, SecretUnreadable

_BATCH = 500


class RepositoryCredentialService:
    def __init__(self, *, database: Database, credentials: RepositoryCredentialRepository, box: SecretsBox) -> None:
        self._database = database
        self._credentials = credentials
        self._box = box

    def set(
        self, tenant_id: str, project_id: str, request: SetRepositoryCredentialsRequest
    ) -> RepositoryCredentialsResource:
        """Creates or replaces the credentials for the host of the project's repositoryUrl, and deletes the known SSH
        host keys. Raises ValidationFailed, NotFound."""
        key = _validate(request)
        with self._database.transaction() as connection:
            row = self._credentials.lock_project(connection, tenant_id, project_id)
            if row is None:
                raise _no_project()
            url = _address(row.repository_url, kind=request.kind)
            self._clean_address(connection, project_id, row.repository_url)
            if key is not None:
                credentials = RepositoryCredentials("sshKey", url.origin, private_key=key.private_key)
            else:
                user = request.username or DEFAULT_USERNAME
                credentials = RepositoryCredentials("token", url.origin, user=user, password=request.token or "")
            stored = self._store(connection, project_id, credentials, username=request.username, key=key)
        return _resource(stored)

    def take_from(self, connection: Connection, project_id: str, url: RepositoryUrl) -> None:
        """Stores credentials in the address, if any, as the project's."""
        if url.is_http and (url.user or url.password):
            credentials = RepositoryCredentials("token", url.origin, user=url.user or "", password=url.password or "")
            # A user without a password is a token.
            username = url.user if url.password else None
            self._store(connection, project_id, credentials, username=username, key=None)

    def get(self, tenant_id: str, project_id: str) -> RepositoryCredentialsResource:
        """Raises NotFound."""
        row = self._credentials.find(tenant_id, project_id)
        if row is None:
            raise _none_set()
        return _resource(row)

    def delete(self, tenant_id: str, project_id: str) -> None:
        """Deletes the credentials and the known SSH host keys. Raises NotFound."""
        with self._database.transaction() as connection:
            row = self._credentials.lock_project(connection, tenant_id, project_id)
            if row is None:
                raise _no_project()
            self._credentials.forget_host_keys(connection, project_id)
            deleted = self._credentials.delete(connection, project_id)
            # Older versions stored addresses with their credentials.
            deleted |= self._clean_address(connection, project_id, row.repository_url)
        if not deleted:
            raise _none_set()

    def open_for(self, project_id: str) -> RepositoryCredentials | None:
        """Decrypts the credentials. For workers only. Raises PlatformError if a key is missing from the settings."""
        row = self._credentials.find_sealed(project_id)
        if row is None:
            return None
        try:
            opened = self._box.open(row.sealed, _context(row.project_id, row.kind, row.origin))
        except SecretUnreadable as error:
            raise PlatformError(f"The repository's credentials can't be read. {error}") from error
        values: dict[str, str] = json.loads(opened)
        return RepositoryCredentials(row.kind, row.origin, **values)

    def rotate_keys(self) -> Rotation:
        """Wraps all data keys with the current key. May be repeated and run concurrently with writes."""
        rewrapped, after = 0, ""
        unreadable: list[str] = []
        while rows := self._credentials.wrapped_by_others(self._box.current_key_id, after=after, limit=_BATCH):
            for row in rows:
                after = row.project_id
                try:
                    sealed = self._box.rewrap(row.sealed, _context(after, row.kind, row.origin))
                except SecretUnreadable:
                    unreadable.append(f"repository credentials of {after}")
                    continue
                rewrapped += self._credentials.replace_wrapping(
                    after, key_id=sealed.key_id, wrapped_key=sealed.wrapped_key, former=row.wrapped_key
                )
        return Rotation(rewrapped, tuple(unreadable))

    def _store(
        self,
        connection: Connection,
        project_id: str,
        credentials: RepositoryCredentials,
        *,
        username: str | None,
        key: DeployKey | None,
    ) -> CredentialsRow:
        values = {"private_key": credentials.private_key}
        if credentials.kind == "token":
            values = {"user": credentials.user, "password": credentials.password}
        context = _context(project_id, credentials.kind, credentials.origin)
        sealed = self._box.seal(json.dumps(values).encode(), context)
        self._credentials.forget_host_keys(connection, project_id)
        return self._credentials.upsert(
            connection,
            NewCredentials(
                project_id=project_id,
                kind=credentials.kind,
                origin=credentials.origin,
                username=username,
                fingerprint=key.fingerprint if key else None,
                public_key=key.public_key if key else None,
                key_id=sealed.key_id,
                wrapped_key=sealed.wrapped_key,
                ciphertext=sealed.ciphertext,
            ),
        )

    def _clean_address(self, connection: Connection, project_id: str, address: str | None) -> bool:
        """Removes credentials from the project's stored address. Returns whether it had any."""
        try:
            url = parse_repository_url(address or "")
        except CloudifyError:
            return False
        if not url.secrets:
            return False
        self._credentials.replace_address(connection, project_id, url.public)
        return True


def _validate(request: SetRepositoryCredentialsRequest) -> DeployKey | None:
    """Returns the deploy key, if one is given. Raises ValidationFailed with all problems."""
    if request.kind not in ("token", "sshKey"):
        raise ValidationFailed({"kind": "must be token or sshKey"})
    given = {"username": request.username, "token": request.token, "privateKey": request.private_key}
    if request.kind == "sshKey":
        problems = {name: "belongs to a token" for name in ("username", "token") if given[name] is not None}
        if not request.private_key:
            problems["privateKey"] = "is needed: the deploy key's private half"
        if problems:
            raise ValidationFailed(problems)
        return parse_deploy_key(request.private_key or "")
    problems = {"privateKey": "belongs to an SSH key"} if request.private_key is not None else {}
    if not request.token:
        problems["token"] = "is needed"
    elif len(request.token) > MAXIMUM_TOKEN or not _is_plain(request.token):
        problems["token"] = f"must be at most {MAXIMUM_TOKEN} printable ASCII characters without spaces"
    if request.username is not None and not (
        1 <= len(request.username) <= MAXIMUM_USERNAME and _is_plain(request.username) and ":" not in request.username
    ):
        problems["username"] = f"must be 1 to {MAXIMUM_USERNAME} printable ASCII characters without spaces and colons"
    if problems:
        raise ValidationFailed(problems)
    return None


def _is_plain(text: str) -> bool:
    return all("!" <= character <= "~" for character in text)


def _address(stored: str | None, *, kind: str) -> RepositoryUrl:
    """Raises ValidationFailed if credentials of this kind can't be used for the address."""
    if stored is None:
        raise ValidationFailed({"kind": "needs a repository: set the project's repositoryUrl first"})
    url = parse_repository_url(stored)
    if kind == "token" and not url.is_http:
        raise ValidationFailed({"kind": f"is for https:// addresses, but the project's is {url.public}"})
    if kind == "sshKey" and url.scheme != "ssh":
        raise ValidationFailed({"kind": f"is for ssh:// addresses, but the project's is {url.public}"})
    return url


def _context(project_id: str, kind: str, origin: str) -> bytes:
    """Includes the host, so that a row that is moved to another host can't be decrypted."""
    return f"repository credentials\x00{project_id}\x00{kind}\x00{origin}".encode()


def _resource(row: CredentialsRow) -> RepositoryCredentialsResource:
    return RepositoryCredentialsResource(
        kind=row.kind,
        host=row.origin,
        username=row.username,
        fingerprint=row.fingerprint,
        public_key=row.public_key,
        updated_at=row.updated_at,
    )


def _no_project() -> NotFound:
    return NotFound("There is no such project.")


def _none_set() -> NotFound:
    return NotFound("The project has no credentials for its repository; set them with PUT.")
