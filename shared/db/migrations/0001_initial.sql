-- The truth of the platform. Enums and CHECK constraints hold the invariants; every list endpoint has its index.

CREATE TYPE plan AS ENUM ('FREE', 'PRO', 'TEAM', 'ENTERPRISE');
CREATE TYPE role AS ENUM ('VIEWER', 'MEMBER', 'DEVELOPER', 'ADMIN', 'OWNER');
CREATE TYPE deployment_status AS ENUM
  ('queued', 'cloning', 'installing', 'building', 'uploading', 'deploying', 'ready', 'failed', 'cancelled');
CREATE TYPE stage AS ENUM ('clone', 'install', 'build', 'upload', 'deploy');
CREATE TYPE stage_run_status AS ENUM ('running', 'succeeded', 'failed', 'cancelled', 'retrying');
CREATE TYPE deployment_trigger AS ENUM ('api', 'cli', 'webhook', 'redeploy');
CREATE TYPE variable_target AS ENUM ('production', 'preview', 'development');
CREATE TYPE release_kind AS ENUM ('rollback', 'promote');
CREATE TYPE release_status AS ENUM ('pending', 'done', 'superseded', 'failed');
CREATE TYPE site_state AS ENUM ('none', 'published', 'removing', 'removed');

CREATE TABLE users (
  id text PRIMARY KEY,
  email text NOT NULL CHECK (email = lower(email) AND length(email) BETWEEN 3 AND 254),
  name text NOT NULL DEFAULT '' CHECK (length(name) <= 200),
  password_hash text NOT NULL,
  image text,
  is_platform_administrator boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (email)
);

-- A tenant owns projects and has a plan. Each user has one of their own (personal); teams are tenants too.
CREATE TABLE tenants (
  id text PRIMARY KEY,
  name text NOT NULL,
  plan plan NOT NULL DEFAULT 'FREE',
  personal_user_id text UNIQUE REFERENCES users (id) ON DELETE CASCADE,
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE memberships (
  tenant_id text NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  role role NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, user_id)
);
CREATE INDEX memberships_user ON memberships (user_id);

CREATE TABLE api_tokens (
  id text PRIMARY KEY,
  user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
  prefix text NOT NULL,
  token_hash bytea NOT NULL UNIQUE CHECK (length(token_hash) = 32),
  scopes text[] NOT NULL DEFAULT '{}',
  expires_at timestamptz,
  last_used_at timestamptz,
  revoked_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX api_tokens_user ON api_tokens (user_id, created_at DESC, id DESC);

-- One row a refresh token; a family is one login. Reuse of a replaced token revokes the family.
CREATE TABLE sessions (
  id text PRIMARY KEY,
  family_id text NOT NULL,
  user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  refresh_token_hash bytea NOT NULL UNIQUE CHECK (length(refresh_token_hash) = 32),
  user_agent text,
  address text,
  replaced_at timestamptz,
  revoked_at timestamptz,
  expires_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sessions_user ON sessions (user_id, created_at DESC, id DESC);
CREATE INDEX sessions_family ON sessions (family_id);

CREATE TABLE projects (
  id text PRIMARY KEY,
  tenant_id text NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
  slug text NOT NULL CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$'),
  repository_url text,
  repository_branch text NOT NULL DEFAULT 'main',
  root_directory text NOT NULL DEFAULT '.',
  framework text,
  install_command text,
  build_command text,
  output_directory text,
  node_version text,
  -- Grows with every deployment, rollback and promotion; decides which of two is newer.
  release_sequence bigint NOT NULL DEFAULT 0,
  -- The release sequence that production serves; only a greater one may replace it.
  active_release_sequence bigint NOT NULL DEFAULT 0 CHECK (active_release_sequence <= release_sequence),
  -- After a rollback automatic deployments are built but not activated, until promoted or unpinned.
  is_pinned boolean NOT NULL DEFAULT false,
  deleting_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (slug)
);
CREATE INDEX projects_tenant_created ON projects (tenant_id, created_at DESC, id DESC);
CREATE INDEX projects_tenant_name ON projects (tenant_id, name, id);

CREATE TABLE environment_variables (
  id text PRIMARY KEY,
  project_id text NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  key text NOT NULL CHECK (key ~ '^[A-Za-z_][A-Za-z0-9_]{0,255}$'),
  targets variable_target[] NOT NULL CHECK (cardinality(targets) > 0),
  -- AES-256-GCM with a data key a record, wrapped by the key-encryption key that key_id names.
  key_id text NOT NULL,
  wrapped_key bytea NOT NULL,
  ciphertext bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (project_id, key)
);

CREATE TABLE deployments (
  id text PRIMARY KEY,
  tenant_id text NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  project_id text NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  created_by text REFERENCES users (id) ON DELETE SET NULL,
  trigger deployment_trigger NOT NULL DEFAULT 'api',
  status deployment_status NOT NULL DEFAULT 'queued',
  -- The greatest fencing token that has touched this row; a smaller one changes nothing.
  fence bigint NOT NULL DEFAULT 0,
  repository_url text NOT NULL,
  branch text NOT NULL,
  commit_sha text CHECK (commit_sha ~ '^[0-9a-f]{40}([0-9a-f]{24})?$'),
  commit_message text,
  -- The project's settings when the deployment was made: {rootDirectory, framework, installCommand, …}.
  settings jsonb NOT NULL DEFAULT '{}',
  is_preview boolean NOT NULL DEFAULT false,
  is_active boolean NOT NULL DEFAULT false,
  clean boolean NOT NULL DEFAULT false,
  priority smallint NOT NULL DEFAULT 5 CHECK (priority BETWEEN 0 AND 9),
  release_sequence bigint NOT NULL,
  host text NOT NULL CHECK (host ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
  site_state site_state NOT NULL DEFAULT 'none',
  manifest_digest text,
  framework text,
  cancel_requested_at timestamptz,
  error_code text,
  error_stage stage,
  error_message text,
  traceparent text,
  preview_expires_at timestamptz,
  deleting_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  started_at timestamptz,
  finished_at timestamptz,
  CHECK ((status IN ('ready', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
  CHECK ((status = 'failed') = (error_code IS NOT NULL)),
  CHECK (NOT is_active OR (status = 'ready' AND NOT is_preview)),
  CHECK (status <> 'ready' OR manifest_digest IS NOT NULL)
);
CREATE UNIQUE INDEX deployments_one_active ON deployments (project_id) WHERE is_active;
CREATE INDEX deployments_project_created ON deployments (project_id, created_at DESC, id DESC);
CREATE INDEX deployments_tenant_created ON deployments (tenant_id, created_at DESC, id DESC);
CREATE INDEX deployments_tenant_status ON deployments (tenant_id, status, created_at DESC, id DESC);
CREATE INDEX deployments_project_branch ON deployments (project_id, branch, created_at DESC, id DESC);
CREATE INDEX deployments_host ON deployments (host);
CREATE INDEX deployments_live ON deployments (created_at) WHERE status NOT IN ('ready', 'failed', 'cancelled');
CREATE INDEX deployments_removing ON deployments (created_at) WHERE site_state = 'removing';
CREATE INDEX deployments_preview_expiry ON deployments (preview_expires_at)
  WHERE is_preview AND site_state = 'published';

CREATE TABLE stage_runs (
  deployment_id text NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
  stage stage NOT NULL,
  fence bigint NOT NULL,
  attempt integer NOT NULL CHECK (attempt > 0),
  status stage_run_status NOT NULL DEFAULT 'running',
  is_cache_hit boolean NOT NULL DEFAULT false,
  worker text NOT NULL,
  -- What the next stages need: digests of snapshots and what was detected.
  output jsonb,
  error_code text,
  error_message text,
  started_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  PRIMARY KEY (deployment_id, stage, fence),
  CHECK ((status = 'succeeded') = (output IS NOT NULL)),
  CHECK ((status = 'running') = (finished_at IS NULL))
);
CREATE UNIQUE INDEX stage_runs_one_success ON stage_runs (deployment_id, stage) WHERE status = 'succeeded';

-- A rollback or promotion: a pointer swap asked for, then done by a worker.
CREATE TABLE releases (
  id text PRIMARY KEY,
  tenant_id text NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  project_id text NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  deployment_id text NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
  kind release_kind NOT NULL,
  status release_status NOT NULL DEFAULT 'pending',
  release_sequence bigint NOT NULL,
  requested_by text REFERENCES users (id) ON DELETE SET NULL,
  error_message text,
  created_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz
);
CREATE INDEX releases_pending ON releases (created_at) WHERE status = 'pending';

-- Content of a stage's output by the digest of its inputs.
CREATE TABLE snapshots (
  tenant_id text NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  scope text NOT NULL,
  kind text NOT NULL,
  key text NOT NULL,
  -- Outputs that succeed each other (a project's installs): compared to say why a key was not found.
  group_name text NOT NULL,
  digest text NOT NULL,
  size_bytes bigint NOT NULL,
  components jsonb NOT NULL,
  output jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  last_used_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, scope, kind, key)
);
CREATE INDEX snapshots_latest ON snapshots (tenant_id, kind, group_name, last_used_at DESC);

CREATE TABLE log_heads (
  deployment_id text PRIMARY KEY REFERENCES deployments (id) ON DELETE CASCADE,
  -- The sequence number that the next entry gets; entries are numbered from 1 without gaps.
  next_seq bigint NOT NULL DEFAULT 1,
  fence bigint NOT NULL DEFAULT 0,
  -- The last batch of the writer that holds the fence; makes a retried append change nothing.
  batch bigint NOT NULL DEFAULT 0,
  stored_bytes bigint NOT NULL DEFAULT 0,
  is_truncated boolean NOT NULL DEFAULT false,
  is_closed boolean NOT NULL DEFAULT false
);

CREATE TABLE log_chunks (
  deployment_id text NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
  seq_from bigint NOT NULL,
  seq_to bigint NOT NULL CHECK (seq_to >= seq_from),
  -- zstd-compressed msgpack array of entries.
  entries bytea NOT NULL,
  PRIMARY KEY (deployment_id, seq_from)
);

CREATE TABLE idempotency_keys (
  principal_id text NOT NULL,
  method text NOT NULL,
  path text NOT NULL,
  key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
  fingerprint bytea NOT NULL,
  response_status integer NOT NULL,
  response_body bytea NOT NULL,
  response_location text,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (principal_id, method, path, key)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);
