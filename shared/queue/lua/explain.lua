-- Tells a job's state and why it waits.
-- With jobs.lua
-- KEYS  [1] root
-- ARGV  [1] job id
-- Reply nil, or {pool, state, reason, position or 0, holders, low ms or -1, high ms or -1}
--       The estimate comes from the moving averages of run times and of how long slots are held.
local job = read_job(ARGV[1])
if not job then
  return nil
end
local holders = call('SMEMBERS', active_key(job.tenant))
if job.state == 'running' or job.state == 'dead' then
  return {job.pool, job.state, job.state, 0, holders, -1, -1}
end

local state = in_queue(job.pool, 'state')
local threads = 0
for _, worker in ipairs(call('ZRANGEBYSCORE', in_queue(job.pool, 'workers'), now, '+inf')) do
  local v = call('HMGET', root .. 'worker:' .. job.pool .. ':' .. worker, 'threads', 'state')
  -- One that is paused or ends takes no job; a worker of an earlier version doesn't tell its state.
  if not v[2] or v[2] == 'running' then
    threads = threads + number_or(v[1], 0)
  end
end
local is_paused = call('HGET', state, 'paused') or call('HGET', tenant_key(job.tenant), 'paused')

if job.state == 'delayed' then
  local left = math.max(0, tonumber(call('ZSCORE', in_queue(job.pool, 'delayed'), job.id)) - now)
  return {job.pool, 'delayed', 'delayed', 0, holders, left, left + 1000}
end

local other = job.state == 'ready' and 'waiting' or 'ready'
local ahead = call('ZRANK', in_queue(job.pool, job.state .. ':' .. job.tenant), job.id)
  + call('ZCOUNT', in_queue(job.pool, other .. ':' .. job.tenant), '-inf', job.score)
local reason, low, high = 'pool_busy', -1, -1
local mean = call('HGET', state, 'mean_ms')
local held = call('HGET', root .. 'statistics', 'slot_ms')
if is_paused then
  reason = 'paused'
elseif threads == 0 then
  reason = 'no_workers'
elseif job.state == 'waiting' and not has_free_slot(job.tenant) then
  reason = 'plan_limit'
  if held then
    local limit = math.max(1, number_or(call('HGET', tenant_key(job.tenant), 'limit'), 1))
    local elapsed = 0
    for _, since in ipairs(call('HVALS', root .. 'build:since:' .. job.tenant)) do
      elapsed = math.max(elapsed, now - tonumber(since))
    end
    local rounds = math.floor(ahead / limit)
    low = math.max(0, tonumber(held) * (rounds + 1) * 0.5 - elapsed)
    high = tonumber(held) * (rounds + 1) * 2
  end
elseif mean then
  -- At best only the tenant's own jobs are ahead, at worst all of the pool's.
  low = math.floor(ahead / threads) * tonumber(mean)
  high = math.ceil(call('ZCARD', in_queue(job.pool, 'enqueued')) / threads) * tonumber(mean) * 2
end
return {job.pool, job.state, reason, ahead + 1, holders, math.floor(low), math.ceil(high)}
