-- Takes a slot for a stream of one user, unless the user holds as many as the limit.
-- KEYS[1]  sorted set of the user's slots; the score is the end of the lease, in milliseconds of Redis's clock
-- ARGV[1]  the slot
-- ARGV[2]  the maximum number of slots of the user
-- ARGV[3]  the lease in milliseconds
-- ARGV[4…] slots that the user returns
-- Reply: 1 if the slot is held, also from an earlier call, 0 if none is free
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
