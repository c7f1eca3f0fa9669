-- Counts one event in several sliding windows, or in none of them when one is full.
-- KEYS[i]        sorted set of a window: the events it holds, by their time in milliseconds of Redis's clock
-- ARGV[1]        the event, unique
-- ARGV[2i]       how many events window i may hold
-- ARGV[2i + 1]   its length in milliseconds
-- Reply: 0 when the event is counted, otherwise the milliseconds until every window has room
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local wait = 0
for index, key in ipairs(KEYS) do
  local limit, length = tonumber(ARGV[2 * index]), tonumber(ARGV[2 * index + 1])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - length)
  if redis.call('ZCARD', key) >= limit and not redis.call('ZSCORE', key, ARGV[1]) then
    -- The event whose end makes room; a limit that was lowered leaves more of them than fit.
    local oldest = redis.call('ZRANGE', key, -limit, -limit, 'WITHSCORES')
    wait = math.max(wait, tonumber(oldest[2]) + length - now, 1)
  end
end
if wait > 0 then
  return wait
end
for index, key in ipairs(KEYS) do
  redis.call('ZADD', key, now, ARGV[1])
  redis.call('PEXPIRE', key, ARGV[2 * index + 1])
end
return 0
