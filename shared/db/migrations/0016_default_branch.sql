-- A project that names no branch follows the default branch of its repository. Its repository_branch is then 'main',
-- which is what processes of the version before deploy; one of them that names another branch ends the following. Those
-- processes also read the columns that can't be NULL, so these stay as they are.
ALTER TABLE projects ADD COLUMN follows_default_branch boolean NOT NULL DEFAULT false;
-- The default branch that a clone has seen last in the repository.
ALTER TABLE projects ADD COLUMN default_branch text;

-- No branch was named: until a clone has found the repository's default branch, `branch` is only the one seen last.
ALTER TABLE deployments ADD COLUMN awaits_branch boolean NOT NULL DEFAULT false;
