-- Sets a tenant's limit of slots and its weight. A lower limit doesn't interrupt running jobs.
-- KEYS  [1] root
-- ARGV  [1] tenant, [2] limit, [3] weight
-- Reply 1
set_tenant(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
return 1
