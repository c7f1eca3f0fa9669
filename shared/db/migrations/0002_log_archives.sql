-- Finished logs move from log_chunks into one object each.

ALTER TABLE log_heads
  ADD COLUMN closed_at timestamptz,
  ADD COLUMN is_archived boolean NOT NULL DEFAULT false,
  ADD CONSTRAINT log_heads_archived_when_closed CHECK (is_closed OR NOT is_archived);
-- Logs that were closed before (or by a process of an older version) have no closed_at: they are due at once.
CREATE INDEX log_heads_to_archive ON log_heads (closed_at NULLS FIRST) WHERE is_closed AND NOT is_archived;

CREATE TABLE log_archives (
  deployment_id text PRIMARY KEY REFERENCES deployments (id) ON DELETE CASCADE,
  object_key text NOT NULL,
  size_bytes bigint NOT NULL CHECK (size_bytes > 0),
  -- The object holds the entries 1 to last_seq.
  last_seq bigint NOT NULL CHECK (last_seq > 0),
  -- SHA-256 of the object.
  digest text NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),
  index_offset bigint NOT NULL CHECK (index_offset >= 0),
  index_length integer NOT NULL CHECK (index_length > 0 AND index_offset + index_length = size_bytes),
  created_at timestamptz NOT NULL DEFAULT now()
);
