"""What package managers print when a lockfile doesn't fit the project, as advice to the user."""

from __future__ import annotations

from collections.abc import Mapping

from shared.errors import FailureCode, StageFailure
from workers.frameworks.node_projects import FORCING_VARIABLE

# What each package manager prints when its lockfile does not fit, and what fixes it.
_MISMATCHES: tuple[tuple[bytes, str, str], ...] = (
    (b"can only install packages when your package.json and", "package-lock.json", "npm install"),
    (b"can only install with an existing package-lock.json", "package-lock.json", "npm install"),
    (b"ERR_PNPM_OUTDATED_LOCKFILE", "pnpm-lock.yaml", "pnpm install"),
    # Overrides, patches, catalogs or settings of pnpm-workspace.yaml that the lockfile wasn't made with.
    (b"ERR_PNPM_LOCKFILE_CONFIG_MISMATCH", "pnpm-lock.yaml", "pnpm install --no-frozen-lockfile"),
    (b"ERR_PNPM_FROZEN_LOCKFILE_WITH_OUTDATED_LOCKFILE", "pnpm-lock.yaml", "pnpm install"),
    (b"ERR_PNPM_LOCKFILE_MISSING_DEPENDENCY", "pnpm-lock.yaml", "pnpm install --no-frozen-lockfile"),
    (b"ERR_PNPM_LOCKFILE_BREAKING_CHANGE", "pnpm-lock.yaml", "pnpm install --force"),
    (b"ERR_PNPM_BROKEN_LOCKFILE", "pnpm-lock.yaml", "pnpm install --fix-lockfile"),
    (b"Your lockfile needs to be updated", "yarn.lock", "yarn install"),
    (b"This package doesn't seem to be present in your lockfile", "yarn.lock", "yarn install"),
    (b"YN0028", "yarn.lock", "yarn install"),
    (b"lockfile had changes, but lockfile is frozen", "bun.lock", "bun install"),
    (b"lockfile at `uv.lock` needs to be updated", "uv.lock", "uv lock"),
    (b"Unable to find lockfile at `uv.lock`", "uv.lock", "uv lock"),
    (b"pyproject.toml changed significantly since poetry.lock", "poetry.lock", "poetry lock"),
    (b"poetry.lock is not up to date with pyproject.toml", "poetry.lock", "poetry lock"),
    (b"out-of-date with Pipfile", "Pipfile.lock", "pipenv lock"),
    (b"is out of date. Expected: (", "Pipfile.lock", "pipenv lock"),
)


def raise_mismatch(output: bytes, others: Mapping[str, str] | None = None) -> None:
    """Raises StageFailure if the output of a package manager says that its lockfile doesn't match.

    `others`: lockfiles next to the one that is used → their package managers.
    """
    for printed, lockfile, command in _MISMATCHES:
        if printed in output:
            raise StageFailure(
                FailureCode.LOCKFILE_MISMATCH,
                f"{lockfile} does not match the project's dependencies. Run `{command}` and commit {lockfile}."
                f"{_advice_for(lockfile, others or {})}{_unfrozen(lockfile)}",
            )


# Installs that take newer versions where the lockfile doesn't fit.
_UNFROZEN = {
    "package-lock.json": "npm install",
    "pnpm-lock.yaml": "pnpm install --no-frozen-lockfile",
    "yarn.lock": "yarn install",
    "bun.lock": "bun install",
}


def _unfrozen(lockfile: str) -> str:
    command = _UNFROZEN.get(lockfile)
    if command is None:
        return ""
    return (
        f" If you can't change the repository, let the install choose versions that fit:"
        f' `cloudify settings set installCommand "{command}"`.'
    )


def _advice_for(lockfile: str, others: Mapping[str, str]) -> str:
    if not others:
        return ""
    manager = next(iter(others.values()))
    return (
        f" There is also {', '.join(others)}: if that is the one that you keep up to date, delete {lockfile}, or choose"
        f" its package manager with `cloudify env set {FORCING_VARIABLE}` (value: {manager})."
    )
