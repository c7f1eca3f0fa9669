-- Deletes some of the queue's keys, whatever they hold.
-- KEYS  [1] root
-- ARGV  [1] cursor, 0 at first
-- Reply the next cursor, 0 at the end
local found = call('SCAN', ARGV[1], 'MATCH', root .. '*', 'COUNT', 1000)
for _, key in ipairs(found[2]) do
  call('UNLINK', key)
end
return found[1]
