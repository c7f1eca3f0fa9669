-- The ids of a pool's jobs in line, oldest first, followed by the delayed ones.
-- KEYS  [1] root
-- ARGV  [1] pool
-- Reply job ids
local ids = call('ZRANGE', in_queue(ARGV[1], 'enqueued'), 0, -1)
for _, id in ipairs(call('ZRANGE', in_queue(ARGV[1], 'delayed'), 0, -1)) do
  ids[#ids + 1] = id
end
return ids
