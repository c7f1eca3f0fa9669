-- Takes back the jobs of a worker process that is known to be dead, and removes it from the registry.
-- With jobs.lua
-- KEYS  [1] root
-- ARGV  [1] pool, [2] worker, [3] 1 if its jobs may have caused the death, [4] number of such deaths after
--       which a job is dead
-- Reply {number of jobs back in line, ids of the jobs that died of such deaths}
local leases, returned, lost = in_queue(ARGV[1], 'leases'), 0, {}
for _, id in ipairs(call('ZRANGE', leases, 0, -1)) do
  if call('HGET', job_key(id), 'worker') == ARGV[2] then
    local job = read_job(id)
    local strikes = ARGV[3] == '1' and call('HINCRBY', job_key(id), 'strikes', 1) or 0
    call('ZREM', leases, id)
    if strikes >= tonumber(ARGV[4]) then
      bury(job, 'worker_lost')
      lost[#lost + 1] = id
    elseif job.attempts >= job.max then
      bury(job, 'lease_expired')
    else
      return_to_line(job, now, job.attempts)
      returned = returned + 1
    end
  end
end
call('ZREM', in_queue(ARGV[1], 'workers'), ARGV[2])
call('DEL', root .. 'worker:' .. ARGV[1] .. ':' .. ARGV[2])
return {returned, lost}
