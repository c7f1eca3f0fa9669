-- The status changes of all deployments of a tenant, numbered from 1 without gaps: what GET /api/events/stream sends.

CREATE TABLE account_event_heads (
  tenant_id text PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
  -- The number that the next event gets. The row's lock makes commit order equal sequence order.
  next_seq bigint NOT NULL DEFAULT 1 CHECK (next_seq > 0)
);

-- Deployments and projects may be deleted; what happened to them stays until it has had its time.
CREATE TABLE account_events (
  tenant_id text NOT NULL REFERENCES account_event_heads (tenant_id) ON DELETE CASCADE,
  seq bigint NOT NULL CHECK (seq > 0),
  deployment_id text NOT NULL,
  project_id text NOT NULL,
  is_preview boolean NOT NULL,
  -- JSON of the rest: {"status", "stage"?, "attempt"?, "ts", "url"?, "error"?}.
  payload text NOT NULL,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, seq)
);
