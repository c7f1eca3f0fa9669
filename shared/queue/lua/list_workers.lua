-- The live processes.
-- KEYS  [1] root
-- ARGV  [1] 'pools' for workers, 'roles' for the others
-- Reply {{pool, worker, threads, busy threads, ms of its last registration, host, version, state, reason}…}
local reply = {}
for _, pool in ipairs(call('SMEMBERS', root .. ARGV[1])) do
  for _, worker in ipairs(call('ZRANGEBYSCORE', in_queue(pool, 'workers'), now, '+inf')) do
    local v = call('HMGET', root .. 'worker:' .. pool .. ':' .. worker, 'threads', 'busy', 'seen',
      'host', 'version', 'state', 'reason')
    reply[#reply + 1] = {pool, worker, number_or(v[1], 0), number_or(v[2], 0), number_or(v[3], 0),
      v[4] or '', v[5] or '', v[6] or 'running', v[7] or ''}
  end
end
return reply
