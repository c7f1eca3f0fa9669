-- Promotes delayed jobs that are due and takes back expired leases, of every pool.
-- With jobs.lua
-- KEYS  [1] root
-- ARGV  [1] most of each kind a pool
-- Reply how many leases had expired
local expired = 0
for _, pool in ipairs(call('SMEMBERS', root .. 'pools')) do
  expired = expired + sweep(pool, tonumber(ARGV[1]))
  -- A tenant that is not ahead of the pool's virtual time starts there anyway.
  local virtual = number_or(call('HGET', in_queue(pool, 'state'), 'virtual'), 0)
  call('ZREMRANGEBYSCORE', in_queue(pool, 'served'), '-inf', virtual)
end
return expired
