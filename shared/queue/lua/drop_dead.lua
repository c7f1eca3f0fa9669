-- Deletes a dead letter.
-- With jobs.lua
-- KEYS  [1] root
-- ARGV  [1] job id
-- Reply 1, or 0 if there is no such dead letter
local job = read_job(ARGV[1])
if not job or job.state ~= 'dead' then
  return 0
end
drop_dead(job)
return 1
