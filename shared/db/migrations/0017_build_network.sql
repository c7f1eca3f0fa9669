CREATE TYPE build_network AS ENUM ('none', 'filtered');

-- What a project's builds may reach; NULL for the installation's default.
ALTER TABLE projects ADD COLUMN build_network build_network;
