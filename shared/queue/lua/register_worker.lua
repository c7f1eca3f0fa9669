-- Records that a worker process serves a pool, or removes it.
-- KEYS  [1] root
-- ARGV  [1] pool, [2] worker, [3] threads, [4] busy threads, [5] ms until it counts as dead; 0 removes it
-- Reply 1
local workers, record = in_queue(ARGV[1], 'workers'), root .. 'worker:' .. ARGV[1] .. ':' .. ARGV[2]
call('SADD', root .. 'pools', ARGV[1])
if ARGV[5] == '0' then
  call('ZREM', workers, ARGV[2])
  call('DEL', record)
  return 1
end
call('ZADD', workers, now + tonumber(ARGV[5]), ARGV[2])
call('ZREMRANGEBYSCORE', workers, '-inf', '(' .. string.format('%.0f', now))
call('HSET', record, 'threads', ARGV[3], 'busy', ARGV[4], 'seen', now)
call('PEXPIRE', record, tonumber(ARGV[5]))
return 1
