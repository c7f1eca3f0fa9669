-- Records that a process serves a pool or has another role, or removes it.
-- KEYS  [1] root
-- ARGV  [1] pool or role, [2] worker, [3] threads, [4] busy threads, [5] ms until it counts as dead; 0 removes it,
--       [6] 'pools' or 'roles', [7] host, [8] version, [9] state, [10] reason of the state
-- Reply 1
local workers, record = in_queue(ARGV[1], 'workers'), root .. 'worker:' .. ARGV[1] .. ':' .. ARGV[2]
call('SADD', root .. ARGV[6], ARGV[1])
if ARGV[5] == '0' then
  call('ZREM', workers, ARGV[2])
  call('DEL', record)
  return 1
end
call('ZADD', workers, now + tonumber(ARGV[5]), ARGV[2])
call('ZREMRANGEBYSCORE', workers, '-inf', '(' .. string.format('%.0f', now))
call('HSET', record, 'threads', ARGV[3], 'busy', ARGV[4], 'seen', now, 'host', ARGV[7], 'version', ARGV[8],
  'state', ARGV[9], 'reason', ARGV[10])
call('PEXPIRE', record, tonumber(ARGV[5]))
return 1
