-- Package managers and runtimes that builds fetch for themselves, shared by all tenants: what they hold is decided by
-- their name and version alone.
CREATE TABLE tools (
  key text PRIMARY KEY,
  name text NOT NULL,
  version text NOT NULL,
  digest text NOT NULL,
  size_bytes bigint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
