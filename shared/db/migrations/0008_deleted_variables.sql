-- When a variable was deleted last: what was built before depends on one that is no more.
ALTER TABLE projects ADD COLUMN variable_deleted_at timestamptz;
