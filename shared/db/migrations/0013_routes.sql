-- The ordered log of route changes, which every site router applies, and its snapshot.

-- One row. Whoever appends locks it until its transaction ends, so the order of numbers is the order of commits.
CREATE TABLE route_log (
  is_single boolean PRIMARY KEY DEFAULT true CHECK (is_single),
  -- Replaced when the database is restored: routers then start from the snapshot.
  epoch text NOT NULL,
  last_number bigint NOT NULL DEFAULT 0,
  -- Changes up to this one are deleted.
  compacted_number bigint NOT NULL DEFAULT 0 CHECK (compacted_number <= last_number)
);
INSERT INTO route_log (epoch) VALUES (replace(gen_random_uuid()::text, '-', ''));

CREATE TYPE route_change_kind AS ENUM ('prepare', 'activate', 'remove', 'discard');

CREATE TABLE route_changes (
  number bigint PRIMARY KEY,
  kind route_change_kind NOT NULL,
  -- The label below the sites' domain. Of a preparation: the host that will serve the deployment.
  host text CHECK (host ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
  deployment_id text,
  -- The router that fetches the files of a preparation even if it has had no request for the host.
  fetcher text,
  created_at timestamptz NOT NULL DEFAULT now(),
  CHECK ((kind = 'discard') = (host IS NULL)),
  CHECK ((kind = 'remove') = (deployment_id IS NULL))
);

-- The snapshot: what each host serves, after the change of this number. No reference to deployments: a host is removed
-- by a change, never by the end of a row.
CREATE TABLE routes (
  host text PRIMARY KEY CHECK (host ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
  deployment_id text NOT NULL,
  number bigint NOT NULL
);

-- What routers need to fetch a deployment's files, from its preparation until it is discarded.
CREATE TABLE route_artifacts (
  deployment_id text PRIMARY KEY,
  tenant_id text NOT NULL,
  manifest_digest text NOT NULL,
  is_preview boolean NOT NULL
);

CREATE TABLE routers (
  id text PRIMARY KEY,
  machine text NOT NULL,
  version text NOT NULL,
  -- Where other routers ask for the position.
  url text NOT NULL,
  epoch text NOT NULL,
  applied_number bigint NOT NULL,
  -- The change that its last snapshot ended with: preparations up to this one were not carried out.
  snapshot_number bigint NOT NULL DEFAULT 0,
  -- Why the router can't serve; NULL while it can.
  problem text,
  sites integer NOT NULL DEFAULT 0,
  started_at timestamptz NOT NULL DEFAULT now(),
  seen_at timestamptz NOT NULL DEFAULT now()
);

CREATE TYPE preparation_outcome AS ENUM ('ready', 'noted', 'failed', 'artifact_missing');

-- What became of a preparation at each router.
CREATE TABLE router_preparations (
  router_id text NOT NULL REFERENCES routers (id) ON DELETE CASCADE,
  deployment_id text NOT NULL,
  number bigint NOT NULL,
  outcome preparation_outcome NOT NULL,
  message text,
  PRIMARY KEY (deployment_id, router_id)
);
CREATE INDEX router_preparations_router ON router_preparations (router_id);

INSERT INTO route_artifacts (deployment_id, tenant_id, manifest_digest, is_preview)
SELECT d.id, d.tenant_id, d.manifest_digest, d.is_preview
FROM deployments d JOIN projects p ON p.id = d.project_id
WHERE d.site_state = 'published' AND d.manifest_digest IS NOT NULL AND d.deleting_at IS NULL AND p.deleting_at IS NULL;

INSERT INTO routes (host, deployment_id, number)
SELECT CASE WHEN d.is_preview THEN d.host ELSE p.slug END, d.id, 0
FROM deployments d JOIN projects p ON p.id = d.project_id
WHERE p.deleting_at IS NULL AND d.deleting_at IS NULL
  AND (d.is_active OR (d.is_preview AND d.site_state = 'published'));

-- A production deployment becomes active first, and ready when the routers serve it.
ALTER TABLE deployments DROP CONSTRAINT deployments_check2;
ALTER TABLE deployments ADD CONSTRAINT deployments_active_is_production
  CHECK (NOT is_active OR (status IN ('deploying', 'ready') AND NOT is_preview));
