-- Who set the address of a repository: file:// is read for platform administrators alone, judged again at each clone.
-- A deployment keeps the address that the project had, so it keeps who set that as well.
ALTER TABLE projects ADD COLUMN repository_set_by text REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE deployments ADD COLUMN repository_set_by text REFERENCES users (id) ON DELETE SET NULL;

-- Until now only the account itself could set it: nobody could be invited to a personal tenant.
UPDATE projects p SET repository_set_by = t.personal_user_id FROM tenants t WHERE t.id = p.tenant_id;
UPDATE deployments d SET repository_set_by = t.personal_user_id FROM tenants t WHERE t.id = d.tenant_id
AND d.status NOT IN ('ready', 'failed', 'cancelled');

CREATE INDEX projects_repository_set_by ON projects (repository_set_by);
CREATE INDEX deployments_repository_set_by ON deployments (repository_set_by);
