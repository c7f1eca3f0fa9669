-- What a project's clones authenticate with: one token or deploy key, sent to the host that it was set for and no other.
CREATE TABLE repository_credentials (
  project_id text PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
  kind text NOT NULL CHECK (kind IN ('token', 'sshKey')),
  -- scheme://host:port
  origin text NOT NULL,
  username text,
  -- Of a deploy key alone: a digest of a short token could be guessed.
  fingerprint text,
  public_key text,
  -- AES-256-GCM with a data key a record, wrapped by the key-encryption key that key_id names.
  key_id text NOT NULL,
  wrapped_key bytea NOT NULL,
  ciphertext bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  CHECK ((kind = 'sshKey') = (fingerprint IS NOT NULL AND public_key IS NOT NULL))
);

-- The key that an SSH host showed at the project's first contact; another one is refused from then on.
CREATE TABLE repository_host_keys (
  project_id text NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  -- host:port
  host text NOT NULL,
  -- "<type> <base64>", as in a known_hosts file.
  host_key text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (project_id, host)
);
