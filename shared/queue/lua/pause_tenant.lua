-- Stops or resumes the handing out of a tenant's jobs in all pools; what runs goes on.
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
