-- Renews the leases of the slots that one process holds for one user, and removes those that it returns. A held slot
-- that Redis has lost is restored, because its stream is open.
-- KEYS[1]  sorted set of the user's slots; the score is the end of the lease, in milliseconds of Redis's clock
-- ARGV[1]  the lease in milliseconds
-- ARGV[2]  how many of the following slots are returned
-- ARGV[3…] slots: first the returned ones, then the held ones
-- Reply: the number of slots that the user holds
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local ended = tonumber(ARGV[2])
for index = 3, 2 + ended do
  redis.call('ZREM', KEYS[1], ARGV[index])
end
for index = 3 + ended, #ARGV do
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[index])
end
if #ARGV > 2 + ended then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return redis.call('ZCARD', KEYS[1])
