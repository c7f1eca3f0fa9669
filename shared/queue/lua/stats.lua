-- One row of numbers for each pool.
-- KEYS  [1] root
-- Reply {{pool, depth, in flight, delayed, dead, oldest age ms, is paused, waiting for a slot, workers}…}
local reply = {}
for _, pool in ipairs(call('SMEMBERS', root .. 'pools')) do
  local oldest = call('ZRANGE', in_queue(pool, 'enqueued'), 0, 0, 'WITHSCORES')
  reply[#reply + 1] = {
    pool,
    call('ZCARD', in_queue(pool, 'enqueued')),
    call('ZCARD', in_queue(pool, 'leases')),
    call('ZCARD', in_queue(pool, 'delayed')),
    call('ZCARD', in_queue(pool, 'dead')),
    oldest[1] and math.max(0, now - tonumber(oldest[2])) or 0,
    call('HGET', in_queue(pool, 'state'), 'paused') and 1 or 0,
    number_or(call('HGET', in_queue(pool, 'state'), 'blocked'), 0),
    call('ZCOUNT', in_queue(pool, 'workers'), now, '+inf'),
  }
end
return reply
