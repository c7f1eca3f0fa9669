-- Returns a dead letter to its old place in line and resets its attempts.
-- With jobs.lua
-- KEYS  [1] root
-- ARGV  [1] job id
-- Reply 1, or 0 if there is no such dead letter
local job = read_job(ARGV[1])
if not job or job.state ~= 'dead' then
  return 0
end
call('ZREM', in_queue(job.pool, 'dead'), job.id)
call('HDEL', job_key(job.id), 'reason', 'cancel', 'strikes')
if job.slot ~= '' then
  call('SADD', slot_key(job.tenant, job.slot), job.id)
end
return_to_line(job, now, 0)
return 1
