-- Ends a lease: applies the outcome and enqueues what follows, in one step.
-- KEYS  [1] root
-- ARGV  [1] job id, [2] token, [3] outcome: done, retry, release or dead, [4] delay ms, [5] reason of a death,
--       [6] number of next jobs, then their fields (see prelude)
-- Reply 1 applied; 0 the lease isn't the caller's any more and nothing was changed
local job = read_job(ARGV[1])
if not job or job.state ~= 'running' or job.token ~= ARGV[2] then
  return 0
end
local outcome, due = ARGV[3], now + tonumber(ARGV[4])
call('ZREM', in_queue(job.pool, 'leases'), job.id)

if outcome == 'done' then
  -- The job goes first, so that a successor may carry its id; its slot is looked at last, so that a successor keeps it.
  moving_average(in_queue(job.pool, 'state'), 'mean_ms', now - job.started)
  call('DEL', job_key(job.id))
  leave_slot(job)
  for i = 0, tonumber(ARGV[6]) - 1 do
    insert(job_arguments(7 + i * JOB_FIELDS))
  end
  free_slot_if_unused(job.tenant, job.slot)
elseif outcome == 'release' then
  call('HINCRBY', job_key(job.id), 'attempts', -1)
  enter_line(job, due)
elseif outcome == 'retry' and job.attempts < job.max then
  enter_line(job, due)
else
  bury(job, ARGV[5])
end
return 1
