-- Puts a slot into the running set regardless of the limit.
-- With jobs.lua
-- KEYS  [1] root
-- ARGV  [1] tenant, [2] slot, [3] limit, [4] weight
-- Reply 1
set_tenant(ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]))
take_slot(ARGV[1], ARGV[2])
return 1
