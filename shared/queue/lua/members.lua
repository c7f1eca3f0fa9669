-- The members of a set of the queue.
-- KEYS  [1] root
-- ARGV  [1] the key without the root
-- Reply the members
return call('SMEMBERS', root .. ARGV[1])
