-- Puts a job into line, or into the delayed ones.
-- KEYS  [1] root
-- ARGV  [1] most jobs in line in the pool, [2] most jobs in line of the tenant, [3..13] the job (see prelude)
-- Reply 1 taken; 0 a job of the id waits or runs already; -1 the pool is full; -2 the tenant is
local job = job_arguments(3)
local existing = call('HGET', job_key(job.id), 'state')
if existing and existing ~= 'dead' then
  return 0
end
if call('ZCARD', in_queue(job.pool, 'enqueued')) + call('ZCARD', in_queue(job.pool, 'delayed')) >= tonumber(ARGV[1]) then
  return -1
end
if number_or(call('HGET', tenant_key(job.tenant), 'depth'), 0) >= tonumber(ARGV[2]) then
  return -2
end
return insert(job)
