-- The members of one of the queue's sets.
-- KEYS  [1] root
-- ARGV  [1] the key without its root
-- Reply the members
return call('SMEMBERS', root .. ARGV[1])
