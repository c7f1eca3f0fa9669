-- Why a job is dead.
-- KEYS  [1] root
-- ARGV  [1] job id
-- Reply the reason, or nil if there is no such dead letter
local v = call('HMGET', job_key(ARGV[1]), 'state', 'reason')
return v[1] == 'dead' and (v[2] or '') or false
