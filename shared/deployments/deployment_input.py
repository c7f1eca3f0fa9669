"""Rules for requested deployments. Pure."""

from __future__ import annotations

import re

from shared.errors import ValidationFailed
from shared.identifiers import random_part
from shared.text.slugs import slug_of

_SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def preview_label(slug: str, branch: str, deployment_id: str) -> str:
    """`<project>-<branch>-<8 random characters>`, a valid DNS label (at most 63 characters), never production's."""
    suffix = random_part(deployment_id, 8)
    name = slug_of(branch) or "branch"
    room = 63 - len(suffix) - 1
    return f"{f'{slug}-{name}'[:room].strip('-')}-{suffix}"


def validate_deployment(*, branch: str | None, commit_sha: str | None, priority: int) -> None:
    """Raises ValidationFailed with all problems."""
    fields: dict[str, str] = {}
    if branch is not None and not is_branch_name(branch):
        fields["branch"] = "is not a branch name that git accepts"
    if commit_sha is not None and not _SHA.fullmatch(commit_sha):
        fields["commitSha"] = "must be a full commit SHA of 40 hexadecimal digits"
    if not 0 <= priority <= 9:
        fields["priority"] = "must be from 0 (most urgent) to 9"
    if fields:
        raise ValidationFailed(fields)


_FORBIDDEN_IN_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.$|\.lock(/|$)|^/|/$|/\.|^[.-]|^@$")


def is_branch_name(name: str) -> bool:
    """Applies the rules of git-check-ref-format(1) for branches."""
    return 0 < len(name.encode()) <= 255 and _FORBIDDEN_IN_BRANCH.search(name) is None
