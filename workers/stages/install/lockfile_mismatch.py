"""What package managers print when a lockfile doesn't fit the project, as advice to the user."""

from __future__ import annotations

from shared.errors import FailureCode, StageFailure

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
    (b"YN0028", "yarn.lock", "yarn install"),
    (b"lockfile had changes, but lockfile is frozen", "bun.lock", "bun install"),
    (b"lockfile at `uv.lock` needs to be updated", "uv.lock", "uv lock"),
    (b"Unable to find lockfile at `uv.lock`", "uv.lock", "uv lock"),
    (b"pyproject.toml changed significantly since poetry.lock", "poetry.lock", "poetry lock"),
    (b"poetry.lock is not up to date with pyproject.toml", "poetry.lock", "poetry lock"),
    (b"out-of-date with Pipfile", "Pipfile.lock", "pipenv lock"),
    (b"is out of date. Expected: (", "Pipfile.lock", "pipenv lock"),
)


def raise_mismatch(output: bytes) -> None:
    """Raises StageFailure if the output of a package manager says that its lockfile doesn't match."""
    for printed, lockfile, command in _MISMATCHES:
        if printed in output:
            raise StageFailure(
                FailureCode.LOCKFILE_MISMATCH,
                f"{lockfile} does not match the project's dependencies. Run `{command}` and commit {lockfile}.",
            )
