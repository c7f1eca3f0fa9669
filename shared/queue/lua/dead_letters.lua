-- The newest dead letters of a pool.
-- KEYS  [1] root
-- ARGV  [1] pool, [2] maximum number
-- Reply {{body, attempts, ms of death, reason, enqueued ms}…}
local reply = {}
local entries = call('ZREVRANGE', in_queue(ARGV[1], 'dead'), 0, tonumber(ARGV[2]) - 1, 'WITHSCORES')
for i = 1, #entries, 2 do
  local v = call('HMGET', job_key(entries[i]), 'body', 'attempts', 'reason', 'enqueued')
  if v[1] then
    reply[#reply + 1] = {v[1], tonumber(v[2]), tonumber(entries[i + 1]), v[3] or '', tonumber(v[4])}
  end
end
return reply
