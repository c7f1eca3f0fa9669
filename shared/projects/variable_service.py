"""Environment variables of projects: write-only for clients, decrypted only for builds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from schemas.projects import DevelopmentEnvironmentResource, EnvironmentVariableResource, SetVariableRequest
from shared.db.database import Database
from shared.deployments.state import STAGES, Stage
from shared.errors import Conflict, NotFound, PlatformError, Unavailable, ValidationFailed
from shared.identifiers import new_identifier
from shared.projects.variable_repository import NewVariable, SealedVariable, VariableRepository, VariableRow
from shared.secrets_box import SecretsBox, SecretUnreadable

_PREFIX = "env"
TARGETS = ("production", "preview", "development")
# The stages that run a project's commands.
VARIABLE_STAGES = tuple(stage for stage, traits in STAGES.items() if traits.takes_variables)
MAXIMUM_VARIABLES = 200
MAXIMUM_VALUE_BYTES = 64 * 1024
# Linux can't start a program with more than about 2 MiB of variables and arguments.
MAXIMUM_TOTAL_BYTES = 1024 * 1024
# The platform sets these for every build and overrides the project's values.
RESERVED = frozenset(
    ["PATH", "VIRTUAL_ENV", "CLOUDIFY"]
    + [f"CLOUDIFY_{name}" for name in ("ENVIRONMENT", "PROJECT", "BRANCH", "COMMIT_SHA", "URL")]
)

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Rotation:
    """`unreadable`: ids of unchanged records whose key is no longer in the settings."""

    rewrapped: int
    unreadable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProjectVariable:
    """`stages`: the stages whose commands see the variable."""

    key: str
    value: str = field(repr=False)
    stages: frozenset[Stage] = frozenset({Stage.BUILD})


class VariableService:
    def __init__(self, *, database: Database, variables: VariableRepository, box: SecretsBox) -> None:
        self._database = database
        self._variables = variables
        self._box = box

    def set(
        self, tenant_id: str, project_id: str, key: str, request: SetVariableRequest
    ) -> EnvironmentVariableResource:
        """Creates or replaces the variable. Raises ValidationFailed, NotFound, Conflict (200 variables, 1 MiB)."""
        targets, stages = list(dict.fromkeys(request.targets)), list(dict.fromkeys(request.stages))
        _validate(key, request.value, targets, stages)
        sealed = self._box.seal(request.value.encode(), _context(project_id, key))
        with self._database.transaction() as connection:
            if not self._variables.lock_project(connection, tenant_id, project_id):
                raise NotFound("There is no such project.")
            others, their_bytes = self._variables.measure_others(connection, project_id, key)
            if others >= MAXIMUM_VARIABLES:
                raise Conflict(f"The project has {MAXIMUM_VARIABLES} variables; delete one first.")
            if their_bytes + len(sealed.ciphertext) + len(key) > MAXIMUM_TOTAL_BYTES:
                raise Conflict(
                    "The project's variables would take more than 1 MiB together, too much to start a program;"
                    " delete one first, or keep large values in the repository."
                )
            row = self._variables.upsert(
                connection,
                NewVariable(
                    id=new_identifier(_PREFIX),
                    project_id=project_id,
                    key=key,
                    targets=targets,
                    stages=stages,
                    key_id=sealed.key_id,
                    wrapped_key=sealed.wrapped_key,
                    ciphertext=sealed.ciphertext,
                ),
            )
        return _resource(row)

    def list(self, tenant_id: str, project_id: str) -> list[EnvironmentVariableResource]:
        """Returns the variables by key; at most 200."""
        return [_resource(row) for row in self._variables.list_of(tenant_id, project_id)]

    def delete(self, tenant_id: str, project_id: str, key: str) -> None:
        """Raises NotFound."""
        if not (_KEY.fullmatch(key) and self._variables.delete(tenant_id, project_id, key)):
            raise NotFound("The project has no such variable.")

    def development(self, tenant_id: str, project_id: str) -> DevelopmentEnvironmentResource:
        """Returns the values of variables that are only for development, and the names of those that builds see too.

        Raises Unavailable if a key is missing from the settings.
        """
        rows = self._variables.readable_values(tenant_id, project_id)
        try:
            own = {row.key: self._open(project_id, row) for row in rows if row.targets == ["development"]}
        except PlatformError as error:
            raise Unavailable(
                f"{error} Set the variable again, or tell your operator.", retry_after_seconds=60
            ) from error
        return DevelopmentEnvironmentResource(variables=own, withheld=[row.key for row in rows if row.key not in own])

    def rotate_keys(self) -> Rotation:
        """Wraps all data keys with the current key. May be repeated and run concurrently with writes."""
        rewrapped, after = 0, ""
        unreadable: list[str] = []
        while rows := self._variables.wrapped_by_others(self._box.current_key_id, after=after, limit=_BATCH):
            for row in rows:
                after = row.id
                try:
                    sealed = self._box.rewrap(row.sealed, _context(row.project_id, row.key))
                except SecretUnreadable:
                    unreadable.append(row.id)
                    continue
                rewrapped += self._variables.replace_wrapping(
                    row.id, key_id=sealed.key_id, wrapped_key=sealed.wrapped_key, former=row.wrapped_key
                )
        return Rotation(rewrapped, tuple(unreadable))

    def decrypt_for(self, project_id: str, target: str) -> list[ProjectVariable]:
        """Decrypts the project's variables for `production`, `preview` or `development`, by key. For workers only.

        Raises PlatformError if a key is missing from the settings.
        """
        if target not in TARGETS:
            raise ValueError(f"no target {target!r}")
        return [
            ProjectVariable(row.key, self._open(project_id, row), frozenset(row.stages))
            for row in self._variables.sealed_for(project_id, target)
        ]

    def _open(self, project_id: str, row: SealedVariable) -> str:
        try:
            return self._box.open(row.sealed, _context(project_id, row.key)).decode()
        except SecretUnreadable as error:
            raise PlatformError(f"The variable {row.key} can't be read. {error}") from error


def _context(project_id: str, key: str) -> bytes:
    return f"{project_id}\x00{key}".encode()


def _validate(key: str, value: str, targets: list[str], stages: list[str]) -> None:
    fields: dict[str, str] = {}
    if not _KEY.fullmatch(key):
        fields["key"] = "must be letters, digits and _ (at most 256), not starting with a digit"
    elif key in RESERVED:
        fields["key"] = "is set by the platform itself for every build; choose another name"
    if "\x00" in value:
        fields["value"] = "can't hold a NUL character"
    elif len(value.encode()) > MAXIMUM_VALUE_BYTES:
        fields["value"] = "must be at most 64 KiB"
    if not targets or any(target not in TARGETS for target in targets):
        fields["targets"] = f"must be one or more of {', '.join(TARGETS)}"
    if not stages or any(stage not in VARIABLE_STAGES for stage in stages):
        fields["stages"] = f"must be one or more of {', '.join(VARIABLE_STAGES)}"
    if fields:
        raise ValidationFailed(fields)


def _resource(row: VariableRow) -> EnvironmentVariableResource:
    return EnvironmentVariableResource(
        key=row.key,
        targets=row.targets,
        stages=[stage.value for stage in row.stages],
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
