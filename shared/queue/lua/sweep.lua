-- Moves due delayed jobs into line and takes back expired leases, in every pool.
-- With jobs.lua
-- KEYS  [1] root
-- ARGV  [1] maximum of each kind for each pool
-- Reply the number of expired leases
local expired = 0
for _, pool in ipairs(call('SMEMBERS', root .. 'pools')) do
  expired = expired + sweep(pool, tonumber(ARGV[1]))
  -- A tenant that isn't ahead of the pool's virtual time starts there in any case.
  local virtual = number_or(call('HGET', in_queue(pool, 'state'), 'virtual'), 0)
  call('ZREMRANGEBYSCORE', in_queue(pool, 'served'), '-inf', virtual)
end
return expired
