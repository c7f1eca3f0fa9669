-- A login lives or not by this one row: a refresh locks it, a revocation changes it. Refresh tokens have no say of
-- their own in it, so none that is made while its login is revoked can outlive it.
CREATE TABLE logins (
  id text PRIMARY KEY,
  user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  created_at timestamptz NOT NULL DEFAULT now(),
  -- The end of its newest refresh token.
  expires_at timestamptz NOT NULL,
  revoked_at timestamptz
);
CREATE INDEX logins_user ON logins (user_id, created_at DESC, id DESC);
CREATE INDEX logins_expiry ON logins (expires_at);

-- One revoked refresh token ends its login: others of it were made while it was revoked.
INSERT INTO logins (id, user_id, created_at, expires_at, revoked_at)
SELECT family_id, min(user_id), min(created_at), max(expires_at), min(revoked_at) FROM sessions GROUP BY family_id;

ALTER TABLE sessions
  ADD CONSTRAINT sessions_login FOREIGN KEY (family_id) REFERENCES logins (id) ON DELETE CASCADE,
  DROP COLUMN revoked_at;

-- The tokens that a token descends from. It ends with each of them.
ALTER TABLE api_tokens ADD COLUMN ancestor_ids text[] NOT NULL DEFAULT '{}';

-- The one place that says which tokens are not revoked. Whether one has expired is compared where it is used.
CREATE VIEW live_api_tokens AS
SELECT id, user_id, name, prefix, token_hash, scopes, expires_at, last_used_at, created_at, ancestor_ids
FROM api_tokens token
WHERE revoked_at IS NULL
  AND NOT EXISTS (
    SELECT 1 FROM api_tokens ancestor WHERE ancestor.id = ANY(token.ancestor_ids) AND ancestor.revoked_at IS NOT NULL
  );
