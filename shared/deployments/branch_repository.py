"""Database access to branches that nobody named: a deployment is then of its repository's default branch."""

from __future__ import annotations

from typing import LiteralString

from shared.db.database import Database

# The branch that a project names, NULL where it follows the repository's default branch (migration 0020 says why there
# are two columns). For statements in which only projects has these columns.
NAMED_BRANCH: LiteralString = (
    "CASE WHEN follows_default_branch AND repository_branch = 'main' THEN NULL ELSE repository_branch END"
)

_USE = """
UPDATE deployments SET branch = %(branch)s, awaits_branch = false
WHERE id = %(id)s AND fence <= %(fence)s AND awaits_branch
"""

# Unless the project has another repository by now.
_SEE = """
UPDATE projects p SET default_branch = %(branch)s FROM deployments d
WHERE d.id = %(id)s AND d.fence <= %(fence)s AND p.id = d.project_id AND p.repository_url = d.repository_url
  AND p.default_branch IS DISTINCT FROM %(branch)s
"""


class BranchRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def record_default(self, deployment_id: str, branch: str, *, fence: int) -> None:
        """Stores the default branch that a clone has found: as the deployment's if it awaits one, and as the last one
        seen of the project's repository. Changes nothing if a later worker has the deployment."""
        parameters = {"id": deployment_id, "fence": fence, "branch": branch}
        with self._database.transaction() as connection:
            # In the order in which a release locks them.
            connection.execute(_SEE, parameters)
            connection.execute(_USE, parameters)
