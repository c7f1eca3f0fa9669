-- Backups that were restored into this database. The object store may hold what a later restore needs, and lack what this
-- one does, so nothing is collected there until an operator or a comparison says that it is complete.
CREATE TABLE restores (
  restored_at timestamptz PRIMARY KEY DEFAULT now(),
  backup_created_at timestamptz NOT NULL,
  backup_version text NOT NULL,
  is_complete boolean NOT NULL DEFAULT false
);
