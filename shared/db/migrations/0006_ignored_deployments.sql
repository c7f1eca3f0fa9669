-- A deployment may be asked for on the condition that there is something new; otherwise it ends as cancelled, with why.
ALTER TABLE deployments
  ADD COLUMN if_changed boolean NOT NULL DEFAULT false,
  ADD COLUMN ignored_reason text,
  ADD CONSTRAINT deployments_ignored CHECK (ignored_reason IS NULL OR status = 'cancelled');
CREATE INDEX deployments_former ON deployments (project_id, is_preview, branch, release_sequence DESC)
  WHERE status = 'ready';
