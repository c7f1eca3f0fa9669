-- Pauses or resumes a tenant in all pools. Running jobs are not interrupted.
-- KEYS  [1] root
-- ARGV  [1] tenant, [2] 1 to pause, 0 to resume
-- Reply 1
if ARGV[2] == '1' then
  call('HSET', tenant_key(ARGV[1]), 'paused', 1)
else
  call('HDEL', tenant_key(ARGV[1]), 'paused')
end
refresh_tenant(ARGV[1])
return 1
