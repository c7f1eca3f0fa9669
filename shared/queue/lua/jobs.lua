-- Functions for existing jobs. The loader inserts this file after the prelude in scripts that say `With jobs.lua`.
local DEAD_KEPT = 10000 -- maximum dead letters of a pool; the oldest are dropped

local function read_job(id)
  local v = call('HMGET', job_key(id), 'pool', 'tenant', 'slot', 'score', 'enqueued', 'attempts', 'max', 'state',
    'token')
  if not v[1] then
    return nil
  end
  return {
    id = id, pool = v[1], tenant = v[2], slot = v[3], score = tonumber(v[4]), enqueued = tonumber(v[5]),
    attempts = tonumber(v[6]), max = tonumber(v[7]), state = v[8], token = v[9],
  }
end

-- Runs one command for many arguments, in parts that fit on Lua's stack. A part's length is even, so pairs stay whole.
local function call_many(command, key, arguments)
  for first = 1, #arguments, 1000 do
    call(command, key, unpack(arguments, first, math.min(first + 999, #arguments)))
  end
end

local function moving_average(hash, field, samples)
  local mean = tonumber(call('HGET', hash, field) or samples[1])
  for _, sample in ipairs(samples) do
    mean = mean * 0.8 + sample * 0.2
  end
  call('HSET', hash, field, mean)
end

local function return_to_line(job, due, attempts)
  call('HDEL', job_key(job.id), 'token', 'worker', 'started')
  call('HSET', job_key(job.id), 'state', enter_line(job, due), 'attempts', attempts, 'since', math.max(due, now))
end

-- Removes a job from ready, waiting or delayed. The caller must refresh.
local function leave_line(job)
  if job.state == 'delayed' then
    call('ZREM', in_queue(job.pool, 'delayed'), job.id)
  else
    call('ZREM', in_queue(job.pool, job.state .. ':' .. job.tenant), job.id)
    call('ZREM', in_queue(job.pool, 'enqueued'), job.id)
  end
  call('HINCRBY', tenant_key(job.tenant), 'depth', -1)
end

-- `taker`: the id of the job that takes the slot, or nil.
local function take_slot(tenant, slot, taker)
  if call('SADD', active_key(tenant), slot) == 0 then
    return
  end
  call('SADD', root .. 'build:tenants', tenant)
  call('HSET', root .. 'build:since:' .. tenant, slot, now)
  -- Other jobs of the slot no longer wait for it.
  local is_alone = taker and call('SCARD', slot_key(tenant, slot)) == 1
  for _, id in ipairs(is_alone and {} or call('SMEMBERS', slot_key(tenant, slot))) do
    local job = id ~= taker and read_job(id)
    if job and job.state == 'waiting' then
      call('ZREM', in_queue(job.pool, 'waiting:' .. tenant), id)
      call('HSET', job_key(id), 'state', place(job))
    end
  end
  refresh_tenant(tenant)
end

-- A slot is occupied exactly as long as one of its jobs lives.
local function free_slot_if_unused(tenant, slot)
  if slot == '' or call('EXISTS', slot_key(tenant, slot)) == 1 or call('SREM', active_key(tenant), slot) == 0 then
    return
  end
  local since = root .. 'build:since:' .. tenant
  local taken = call('HGET', since, slot)
  if taken then
    moving_average(root .. 'statistics', 'slot_ms', {now - tonumber(taken)})
    call('HDEL', since, slot)
  end
  if call('EXISTS', active_key(tenant)) == 0 then
    call('SREM', root .. 'build:tenants', tenant)
  end
  refresh_tenant(tenant)
end

-- For a job that stays and waits for its slot again. Nothing changes if another job has the slot.
local function give_up_slot(job)
  if call('SCARD', slot_key(job.tenant, job.slot)) == 1 and call('SREM', active_key(job.tenant), job.slot) == 1 then
    call('HDEL', root .. 'build:since:' .. job.tenant, job.slot)
    if call('EXISTS', active_key(job.tenant)) == 0 then
      call('SREM', root .. 'build:tenants', job.tenant)
    end
    refresh_tenant(job.tenant)
  end
end

local function leave_slot(job)
  if job.slot ~= '' then
    call('SREM', slot_key(job.tenant, job.slot), job.id)
  end
end

-- A dead letter keeps its record, so that its deployment can be failed, and gives up its slot.
local function bury(job, reason)
  local dead = in_queue(job.pool, 'dead')
  call('HDEL', job_key(job.id), 'worker', 'started')
  call('HSET', job_key(job.id), 'state', 'dead', 'reason', reason)
  call('ZADD', dead, now, job.id)
  leave_slot(job)
  free_slot_if_unused(job.tenant, job.slot)
  if call('ZCARD', dead) > DEAD_KEPT then
    local oldest = call('ZRANGE', dead, 0, 0)[1]
    call('ZREM', dead, oldest)
    call('DEL', job_key(oldest))
  end
end

-- Moves due delayed jobs into line and takes back expired leases, at most `most` of each.
local function sweep(pool, most)
  for _, id in ipairs(call('ZRANGEBYSCORE', in_queue(pool, 'delayed'), '-inf', now, 'LIMIT', 0, most)) do
    local job = read_job(id)
    call('ZREM', in_queue(pool, 'delayed'), id)
    if job then
      call('HSET', job_key(id), 'state', place(job))
      refresh(pool, job.tenant)
    end
  end
  local expired = call('ZRANGEBYSCORE', in_queue(pool, 'leases'), '-inf', now, 'LIMIT', 0, most)
  for _, id in ipairs(expired) do
    local job = read_job(id)
    call('ZREM', in_queue(pool, 'leases'), id)
    if job and job.attempts >= job.max then
      bury(job, 'lease_expired')
    elseif job then
      return_to_line(job, now, job.attempts)
    end
  end
  return #expired
end
