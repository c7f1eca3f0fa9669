-- A ticket opens one stream once, for clients that can't set headers. Only its hash is stored.
CREATE TABLE stream_tickets (
  ticket_hash bytea PRIMARY KEY CHECK (length(ticket_hash) = 32),
  user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  -- What asked for it: an API token, or the login (a family of sessions).
  token_id text,
  session_id text,
  -- The deployment whose log it opens; null for the account's stream of events.
  deployment_id text,
  expires_at timestamptz NOT NULL,
  CHECK ((token_id IS NULL) <> (session_id IS NULL))
);
CREATE INDEX stream_tickets_expiry ON stream_tickets (expires_at);
