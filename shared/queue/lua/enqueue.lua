-- Puts jobs into line, or among the delayed ones.
-- KEYS  [1] root
-- ARGV  [1] maximum jobs in line of a pool, [2] of a tenant, then the fields of each job (see prelude)
-- Reply for each job: 1 accepted, 0 a job with this id already waits or runs, -1 the pool is full, -2 the tenant is
local most, most_of_tenant = tonumber(ARGV[1]), tonumber(ARGV[2])

local function refuse(job)
  if call('ZCARD', in_queue(job.pool, 'enqueued')) + call('ZCARD', in_queue(job.pool, 'delayed')) >= most then
    return -1
  end
  if tenant_of(job.tenant).depth >= most_of_tenant then
    return -2
  end
end

local reply = {}
for first = 3, #ARGV, JOB_FIELDS do
  reply[#reply + 1] = insert(job_arguments(first), refuse)
end
return reply
