-- Sites with pods of their own, in a cluster.

CREATE TYPE site_runtime AS ENUM ('files', 'pods');

ALTER TABLE projects
  ADD COLUMN runtime site_runtime NOT NULL DEFAULT 'files',
  ADD COLUMN replicas integer NOT NULL DEFAULT 1 CHECK (replicas BETWEEN 1 AND 100);

ALTER TABLE route_artifacts
  -- IP:port of the Service of a deployment with pods of its own. Routers serve the files of others, and so do routers of
  -- earlier versions in any case.
  ADD COLUMN pods_address text CHECK (pods_address ~ '^[0-9a-f.:\[\]]{3,45}:[0-9]{1,5}$'),
  -- When a host served the deployment last; NULL if none has, or one still does and never served another one since.
  ADD COLUMN left_at timestamptz;
