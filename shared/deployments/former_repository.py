"""Database access to the deployment that another one would replace."""

from __future__ import annotations

import msgspec

from shared.db.database import Database

# Besides a new commit, changed settings, variables or repository addresses require a rebuild. So does an unfinished
# deployment that may replace the former one before this one ends. A setting that a version has added is null.
_FORMER = """
SELECT former.commit_sha, run.output -> 'watched' AS watched,
       jsonb_strip_nulls(former.settings) <> jsonb_strip_nulls(d.settings) OR former.repository_url <> d.repository_url
       OR COALESCE(p.variable_deleted_at > former.created_at, false)
       OR EXISTS (
         SELECT 1 FROM environment_variables v WHERE v.project_id = d.project_id AND v.updated_at > former.created_at
       )
       OR EXISTS (
         SELECT 1 FROM deployments o
         WHERE o.project_id = d.project_id AND o.is_preview = d.is_preview
           AND (NOT d.is_preview OR o.branch = d.branch OR o.awaits_branch)
           AND o.release_sequence > former.release_sequence AND o.release_sequence < d.release_sequence
           AND o.status NOT IN ('ready', 'failed', 'cancelled')
       ) AS is_otherwise_changed
FROM deployments d JOIN projects p ON p.id = d.project_id
JOIN LATERAL (
  SELECT f.id, f.commit_sha, f.settings, f.repository_url, f.created_at, f.release_sequence FROM deployments f
  WHERE f.project_id = d.project_id AND f.status = 'ready' AND f.is_preview = d.is_preview
    AND (NOT d.is_preview OR (f.branch = d.branch AND f.awaits_branch = d.awaits_branch)) AND f.deleting_at IS NULL
    AND f.site_state = 'published' AND (d.is_preview OR f.is_active)
  ORDER BY f.release_sequence DESC LIMIT 1
) former ON true
LEFT JOIN stage_runs run ON run.deployment_id = former.id AND run.stage = 'install' AND run.status = 'succeeded'
WHERE d.id = %(id)s
"""


class FormerDeployment(msgspec.Struct, frozen=True):
    """The deployment that another one would replace.

    `watched` are the paths that its install stage recorded, if any. `is_otherwise_changed`: the settings, a variable or
    the repository's address have changed since, or a deployment between the two is unfinished.
    """

    commit_sha: str | None
    watched: list[str] | None
    is_otherwise_changed: bool


class FormerDeploymentRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, deployment_id: str) -> FormerDeployment | None:
        """Returns the ready deployment that the given one would replace: active, or the branch's last preview."""
        return self._database.fetch_one(FormerDeployment, _FORMER, {"id": deployment_id})
