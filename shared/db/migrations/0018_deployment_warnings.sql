-- What a deployment's owner has to know although it is ready: texts by the stage that gave them.
ALTER TABLE deployments ADD COLUMN warnings jsonb NOT NULL DEFAULT '{}';
