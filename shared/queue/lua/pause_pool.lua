-- Pauses or resumes a pool. Running jobs are not interrupted.
-- KEYS  [1] root
-- ARGV  [1] pool, [2] 1 to pause, 0 to resume
-- Reply 1
call('SADD', root .. 'pools', ARGV[1])
if ARGV[2] == '1' then
  call('HSET', in_queue(ARGV[1], 'state'), 'paused', 1)
else
  call('HDEL', in_queue(ARGV[1], 'state'), 'paused')
  call('PUBLISH', 'build:new', ARGV[1])
end
return 1
