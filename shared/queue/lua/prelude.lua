-- What every script of the queue shares; the loader puts it before each of them.
--
-- KEYS[1] is the root of all keys, "{cloudify}:". Every key is derived from it, so all lie in one hash slot.
-- A number is never turned into text here (Lua would write 1.7e+12): it is passed on as a number, which Redis
-- writes out exactly up to 2^53.
--
-- job:<id>                     hash   body pool tenant slot score enqueued attempts max state token worker started cancel reason
-- queue:<pool>:ready:<tenant>  zset   score -> jobs that need no slot, or whose slot is in the running set
-- queue:<pool>:waiting:<tenant> zset  score -> jobs whose slot must still be taken
-- queue:<pool>:eligible        zset   virtual time -> tenants of whom a job can be handed out now
-- queue:<pool>:served          zset   virtual time -> tenants who left eligible ahead of the pool's virtual time
-- queue:<pool>:enqueued        zset   enqueue ms -> every job of ready and waiting (depth, oldest age)
-- queue:<pool>:delayed         zset   due ms -> jobs
-- queue:<pool>:leases          zset   expiry ms -> running jobs
-- queue:<pool>:dead            zset   ms of death -> jobs
-- queue:<pool>:blocked         hash   tenant -> jobs of waiting while no slot is free
-- queue:<pool>:state           hash   paused, virtual (time), blocked (sum), mean_ms (run time)
-- queue:<pool>:workers         zset   expiry ms -> worker ids; worker:<pool>:<id> hash threads busy
-- tenant:<tenant>              hash   limit weight paused depth; tenant:<tenant>:pools set of pools with jobs in line
-- build:active:<tenant>        set    the running set; build:since:<tenant> hash slot -> ms; build:tenants set
-- slot:<tenant>:<slot>         set    live jobs (in line, delayed, running) of the slot
-- request:<id>                 list   what an acquire handed out, for its replay
-- fence                        the last fencing token; pools: set of pools; statistics: hash slot_ms
local root = KEYS[1]
local call = redis.call

local function read_clock()
  if clock_key then
    return tonumber(call('GET', clock_key)) * 1000
  end
  local time = call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local now_us = read_clock()
local now = math.floor(now_us / 1000)

local DEAD_KEPT = 10000 -- dead letters a pool; older ones are dropped
local PRIORITY_MS = 100000 -- one level of priority is worth so much waiting

local function in_queue(pool, name)
  return root .. 'queue:' .. pool .. ':' .. name
end

local function job_key(id)
  return root .. 'job:' .. id
end

local function tenant_key(tenant)
  return root .. 'tenant:' .. tenant
end

local function active_key(tenant)
  return root .. 'build:active:' .. tenant
end

local function slot_key(tenant, slot)
  return root .. 'slot:' .. tenant .. ':' .. slot
end

local function number_or(value, default)
  return value and tonumber(value) or default
end

local function read_job(id)
  local v = call('HMGET', job_key(id), 'pool', 'tenant', 'slot', 'score', 'enqueued', 'attempts', 'max', 'state',
    'token', 'started')
  if not v[1] then
    return nil
  end
  return {
    id = id, pool = v[1], tenant = v[2], slot = v[3], score = tonumber(v[4]), enqueued = tonumber(v[5]),
    attempts = tonumber(v[6]), max = tonumber(v[7]), state = v[8], token = v[9] or '', started = number_or(v[10], now),
  }
end

local function moving_average(hash, field, sample)
  local before = call('HGET', hash, field)
  call('HSET', hash, field, before and (tonumber(before) * 0.8 + sample * 0.2) or sample)
end

local function has_free_slot(tenant)
  local limit = number_or(call('HGET', tenant_key(tenant), 'limit'), 1)
  return call('SCARD', active_key(tenant)) < limit
end

-- Makes `eligible` and `blocked` say the truth about one tenant of one pool; run after each change of either.
-- The doorbell rings when the pool turns from nothing to hand out into something: whoever sleeps with an idle
-- thread saw `eligible` empty when it last asked, so no wake-up is lost and a busy pool rings no bell.
local function refresh(pool, tenant)
  local ready = call('ZCARD', in_queue(pool, 'ready:' .. tenant))
  local waiting = call('ZCARD', in_queue(pool, 'waiting:' .. tenant))
  local is_free = waiting > 0 and has_free_slot(tenant)
  local blocked = (waiting > 0 and not is_free) and waiting or 0
  local was_blocked = number_or(call('HGET', in_queue(pool, 'blocked'), tenant), 0)
  if blocked ~= was_blocked then
    if blocked > 0 then
      call('HSET', in_queue(pool, 'blocked'), tenant, blocked)
    else
      call('HDEL', in_queue(pool, 'blocked'), tenant)
    end
    call('HINCRBY', in_queue(pool, 'state'), 'blocked', blocked - was_blocked)
  end
  call(ready + waiting > 0 and 'SADD' or 'SREM', tenant_key(tenant) .. ':pools', pool)

  local is_eligible = (ready > 0 or is_free) and not call('HGET', tenant_key(tenant), 'paused')
  local eligible = in_queue(pool, 'eligible')
  local at = call('ZSCORE', eligible, tenant)
  if is_eligible and not at then
    -- Start-time fair queueing (Goyal, Vin, Cheng 1996): who comes back starts no earlier than the pool's
    -- virtual time (no credit from idling) and no earlier than it left (no credit from leaving).
    local virtual = number_or(call('HGET', in_queue(pool, 'state'), 'virtual'), 0)
    local left_at = number_or(call('ZSCORE', in_queue(pool, 'served'), tenant), 0)
    local was_empty = call('ZCARD', eligible) == 0
    call('ZADD', eligible, math.max(virtual, left_at), tenant)
    call('ZREM', in_queue(pool, 'served'), tenant)
    if was_empty then
      call('PUBLISH', 'build:new', pool)
    end
  elseif at and not is_eligible then
    call('ZREM', eligible, tenant)
    if tonumber(at) > number_or(call('HGET', in_queue(pool, 'state'), 'virtual'), 0) then
      call('ZADD', in_queue(pool, 'served'), tonumber(at), tenant)
    end
  end
end

local function refresh_tenant(tenant)
  for _, pool in ipairs(call('SMEMBERS', tenant_key(tenant) .. ':pools')) do
    refresh(pool, tenant)
  end
end

-- Into ready or waiting, at the job's own score. The caller refreshes.
local function place(job)
  local list = 'ready'
  if job.slot ~= '' and call('SISMEMBER', active_key(job.tenant), job.slot) == 0 then
    list = 'waiting'
  end
  call('ZADD', in_queue(job.pool, list .. ':' .. job.tenant), job.score, job.id)
  call('ZADD', in_queue(job.pool, 'enqueued'), job.enqueued, job.id)
  call('HSET', job_key(job.id), 'state', list)
end

local function enter_line(job, due)
  call('HDEL', job_key(job.id), 'token', 'worker', 'started')
  call('HINCRBY', tenant_key(job.tenant), 'depth', 1)
  if due > now then
    call('ZADD', in_queue(job.pool, 'delayed'), due, job.id)
    call('HSET', job_key(job.id), 'state', 'delayed')
  else
    place(job)
    refresh(job.pool, job.tenant)
  end
end

-- Out of ready, waiting or delayed. The caller refreshes.
local function leave_line(job)
  if job.state == 'delayed' then
    call('ZREM', in_queue(job.pool, 'delayed'), job.id)
  else
    call('ZREM', in_queue(job.pool, job.state .. ':' .. job.tenant), job.id)
    call('ZREM', in_queue(job.pool, 'enqueued'), job.id)
  end
  call('HINCRBY', tenant_key(job.tenant), 'depth', -1)
end

local function take_slot(tenant, slot)
  if call('SADD', active_key(tenant), slot) == 0 then
    return
  end
  call('SADD', root .. 'build:tenants', tenant)
  call('HSET', root .. 'build:since:' .. tenant, slot, now)
  -- Other jobs of the same slot need none of their own any more.
  for _, id in ipairs(call('SMEMBERS', slot_key(tenant, slot))) do
    local job = read_job(id)
    if job and job.state == 'waiting' then
      call('ZREM', in_queue(job.pool, 'waiting:' .. tenant), id)
      place(job)
    end
  end
  refresh_tenant(tenant)
end

-- The slot lives exactly as long as a job of it does.
local function free_slot_if_unused(tenant, slot)
  if slot == '' or call('EXISTS', slot_key(tenant, slot)) == 1 or call('SREM', active_key(tenant), slot) == 0 then
    return
  end
  local since = root .. 'build:since:' .. tenant
  local taken = call('HGET', since, slot)
  if taken then
    moving_average(root .. 'statistics', 'slot_ms', now - tonumber(taken))
    call('HDEL', since, slot)
  end
  if call('EXISTS', active_key(tenant)) == 0 then
    call('SREM', root .. 'build:tenants', tenant)
  end
  refresh_tenant(tenant)
end

local function leave_slot(job)
  if job.slot ~= '' then
    call('SREM', slot_key(job.tenant, job.slot), job.id)
  end
end

local function drop_dead(job)
  call('ZREM', in_queue(job.pool, 'dead'), job.id)
  call('DEL', job_key(job.id))
end

-- Dead letters keep their record, so that what they stood for can be failed, and give up their slot.
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

-- A job takes 11 arguments: id pool tenant slot priority limit weight max enqueued delay_ms body.
local JOB_FIELDS = 11

local function job_arguments(first)
  return {
    id = ARGV[first], pool = ARGV[first + 1], tenant = ARGV[first + 2], slot = ARGV[first + 3],
    priority = tonumber(ARGV[first + 4]), limit = ARGV[first + 5], weight = ARGV[first + 6], max = ARGV[first + 7],
    enqueued = ARGV[first + 8] ~= '' and tonumber(ARGV[first + 8]) or now,
    delay = tonumber(ARGV[first + 9]), body = ARGV[first + 10],
  }
end

local function set_tenant(tenant, limit, weight)
  local before = call('HMGET', tenant_key(tenant), 'limit', 'weight')
  call('HSET', tenant_key(tenant), 'limit', limit, 'weight', weight)
  if before[1] ~= limit then
    refresh_tenant(tenant)
  end
end

-- 1, or 0 when a job of the id waits or runs; a dead one is replaced.
local function insert(job)
  local existing = read_job(job.id)
  if existing and existing.state ~= 'dead' then
    return 0
  end
  if existing then
    drop_dead(existing)
  end
  job.score = job.enqueued + job.priority * PRIORITY_MS
  call('SADD', root .. 'pools', job.pool)
  set_tenant(job.tenant, job.limit, job.weight)
  call('HSET', job_key(job.id), 'body', job.body, 'pool', job.pool, 'tenant', job.tenant, 'slot', job.slot,
    'score', job.score, 'enqueued', job.enqueued, 'attempts', 0, 'max', job.max)
  if job.slot ~= '' then
    call('SADD', slot_key(job.tenant, job.slot), job.id)
  end
  enter_line(job, now + job.delay)
  return 1
end

-- Brings delayed jobs that are due into line and takes expired leases back, at most `most` of each.
local function sweep(pool, most)
  for _, id in ipairs(call('ZRANGEBYSCORE', in_queue(pool, 'delayed'), '-inf', now, 'LIMIT', 0, most)) do
    local job = read_job(id)
    call('ZREM', in_queue(pool, 'delayed'), id)
    if job then
      place(job)
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
      enter_line(job, now)
    end
  end
  return #expired
end
