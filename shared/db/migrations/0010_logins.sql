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

-- The version before this one may still run beside it. It knows no logins and judges by sessions.revoked_at, so what
-- either of them writes is kept where the other one looks. Made before the logins are filled: from here on nobody else
-- writes sessions until this is committed. All three triggers and sessions.revoked_at, which this version neither reads
-- nor writes, may go with the version after this one, when no process of the former is left.
CREATE FUNCTION keep_login_of_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO logins AS l (id, user_id, created_at, expires_at)
  VALUES (NEW.family_id, NEW.user_id, NEW.created_at, NEW.expires_at)
  ON CONFLICT (id) DO UPDATE SET expires_at = GREATEST(l.expires_at, excluded.expires_at)
  RETURNING l.revoked_at INTO NEW.revoked_at;
  RETURN NEW;
END $$;
CREATE TRIGGER sessions_keep_login BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION keep_login_of_session();

CREATE FUNCTION revoke_login_of_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE logins SET revoked_at = NEW.revoked_at WHERE id = NEW.family_id AND revoked_at IS NULL;
  RETURN NULL;
END $$;
CREATE TRIGGER sessions_revoke_login AFTER UPDATE OF revoked_at ON sessions FOR EACH ROW
  WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION revoke_login_of_session();

CREATE FUNCTION revoke_sessions_of_login() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE sessions SET revoked_at = NEW.revoked_at WHERE family_id = NEW.id AND revoked_at IS NULL;
  RETURN NULL;
END $$;
CREATE TRIGGER logins_revoke_sessions AFTER UPDATE OF revoked_at ON logins FOR EACH ROW
  WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION revoke_sessions_of_login();

-- One revoked refresh token ends its login: others of it were made while it was revoked.
INSERT INTO logins (id, user_id, created_at, expires_at, revoked_at)
SELECT family_id, min(user_id), min(created_at), max(expires_at), min(revoked_at) FROM sessions GROUP BY family_id;

ALTER TABLE sessions
  ADD CONSTRAINT sessions_login FOREIGN KEY (family_id) REFERENCES logins (id) ON DELETE CASCADE;

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
