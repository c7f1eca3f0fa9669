-- The live worker processes.
-- KEYS  [1] root
-- Reply {{pool, worker, threads, busy threads, ms of its last registration}…}
local reply = {}
for _, pool in ipairs(call('SMEMBERS', root .. 'pools')) do
  for _, worker in ipairs(call('ZRANGEBYSCORE', in_queue(pool, 'workers'), now, '+inf')) do
    local v = call('HMGET', root .. 'worker:' .. pool .. ':' .. worker, 'threads', 'busy', 'seen')
    reply[#reply + 1] = {pool, worker, number_or(v[1], 0), number_or(v[2], 0), number_or(v[3], 0)}
  end
end
return reply
