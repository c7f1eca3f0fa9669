-- Whether a project's sites show their first page for paths that they don't have; null: decided for each one.
ALTER TABLE projects ADD COLUMN is_application boolean;
