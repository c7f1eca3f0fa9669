-- Removes a slot from the running set, unless a live job has it: then it is freed with the last of them.
-- With jobs.lua
-- KEYS  [1] root
-- ARGV  [1] tenant, [2] slot
-- Reply 1 if the slot is free, 0 if a job still has it
free_slot_if_unused(ARGV[1], ARGV[2])
return 1 - call('SISMEMBER', active_key(ARGV[1]), ARGV[2])
