-- Which commands see a variable: an install runs scripts of packages and has a network, so it is told only what it must.
ALTER TABLE environment_variables ADD COLUMN stages text[] NOT NULL DEFAULT '{build}'
  CHECK (cardinality(stages) > 0 AND stages <@ '{install,build}');
