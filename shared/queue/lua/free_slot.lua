-- Takes a slot out of the running set, unless a live job has it: then the slot goes when the last of them does.
-- With jobs.lua
-- KEYS  [1] root
-- ARGV  [1] tenant, [2] slot
-- Reply 1 the slot isn't held any more, 0 it is
free_slot_if_unused(ARGV[1], ARGV[2])
return 1 - call('SISMEMBER', active_key(ARGV[1]), ARGV[2])
