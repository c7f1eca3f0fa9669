-- Renews the leases of slots that one process holds for one user, and gives back what it holds no more. A slot that
-- Redis has lost is put back: its stream is open.
-- KEYS[1]  sorted set of the user's slots; the score is when the lease ends, in milliseconds of Redis's clock
-- ARGV[1]  the lease in milliseconds
-- ARGV[2]  how many of the slots that follow are given back
-- ARGV[3…] slots: first those that are given back, then those that are held
-- Reply: how many slots the user holds
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
