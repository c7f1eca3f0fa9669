-- Removes a waiting job, or tells the worker of a running one to stop.
-- With jobs.lua
-- KEYS  [1] root
-- ARGV  [1] job id, [2] 1 to keep its slot in the running set, else 0
-- Reply 'removed', 'signalled' or 'unknown'
local job = read_job(ARGV[1])
if not job then
  return 'unknown'
end
if job.state == 'running' then
  -- The next heartbeat reports the flag; the message only makes it known sooner.
  call('HSET', job_key(job.id), 'cancel', 1)
  call('PUBLISH', 'build:cancel', job.id)
  return 'signalled'
end
if job.state == 'dead' then
  drop_dead(job)
  return 'removed'
end
leave_line(job)
call('DEL', job_key(job.id))
leave_slot(job)
refresh(job.pool, job.tenant)
if ARGV[2] ~= '1' then
  free_slot_if_unused(job.tenant, job.slot)
end
return 'removed'
