-- Takes a slot for a stream of one user, when there are fewer than the limit.
-- KEYS[1]  sorted set of the user's slots; the score is when the lease ends, in milliseconds of Redis's clock
-- ARGV[1]  the slot
-- ARGV[2]  how many slots the user may hold
-- ARGV[3]  the lease in milliseconds
-- ARGV[4…] slots of the user that are given back
-- Reply: 1 when the slot is held (again), 0 when there is none free
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for index = 4, #ARGV do
  redis.call('ZREM', KEYS[1], ARGV[index])
end
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
