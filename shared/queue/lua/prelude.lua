-- Functions that all scripts share; the loader inserts this file before each of them. Scripts for existing jobs also
-- get jobs.lua. It is separate because every function that a script defines costs time on each call.
--
-- KEYS[1] is the root of all keys, "{cloudify}:". Every key is derived from it, so all lie in one hash slot.
-- Numbers are never converted to text here (Lua would write 1.7e+12): Redis writes a number exactly up to 2^53.
--
-- job:<id>                     hash   body pool tenant slot score enqueued attempts max state token worker started cancel reason strikes avoids
--                                     since (ms; it has been in line, or will be)
-- queue:<pool>:ready:<tenant>  zset   score -> jobs that need no slot, or whose slot is in the running set
-- queue:<pool>:waiting:<tenant> zset  score -> jobs whose slot isn't in the running set yet
-- queue:<pool>:eligible        zset   virtual time -> tenants with a job that can be handed out now
-- queue:<pool>:served          zset   virtual time -> tenants that left eligible ahead of the pool's virtual time
-- queue:<pool>:enqueued        zset   enqueue ms -> every job of ready and waiting (depth, oldest age)
-- queue:<pool>:delayed         zset   due ms -> jobs
-- queue:<pool>:leases          zset   expiry ms -> running jobs
-- queue:<pool>:avoided         zset   ms until which the worker that a job avoids leaves it to others -> jobs
-- queue:<pool>:dead            zset   ms of death -> jobs
-- queue:<pool>:blocked         hash   tenant -> number of waiting jobs while the tenant has no free slot
-- queue:<pool>:state           hash   paused, virtual (time), blocked (sum), mean_ms (run time)
-- queue:<pool>:workers         zset   expiry ms -> worker ids; worker:<pool>:<id> hash threads busy seen host version
--                                     state reason; <pool> may be a role, which is in the set roles instead of pools
-- tenant:<tenant>              hash   limit weight paused depth; tenant:<tenant>:pools set of pools with jobs in line
-- build:active:<tenant>        set    the running set; build:since:<tenant> hash slot -> ms; build:tenants set
-- slot:<tenant>:<slot>         set    live jobs (in line, delayed, running) of the slot
-- request:<id>                 list   jobs and tokens that an acquire handed out, for its replay
-- fence                        the last fencing token; pools: set of pools; statistics: hash slot_ms
local root = KEYS[1]
local call, tonumber, unpack = redis.call, tonumber, unpack

local function read_clock()
  if clock_key then
    return tonumber(call('GET', clock_key)) * 1000
  end
  local time = call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local now_us = read_clock()
local now = math.floor(now_us / 1000)

local PRIORITY_MS = 100000 -- one level of priority is worth this much waiting time

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

-- A tenant's settings, read once per script; set_tenant updates them.
local tenants = {}
local function tenant_of(name)
  if not tenants[name] then
    local v = call('HMGET', tenant_key(name), 'limit', 'weight', 'paused', 'depth')
    tenants[name] = {
      limit = number_or(v[1], 1), weight = number_or(v[2], 1), is_paused = v[3], depth = number_or(v[4], 0),
      is_known = v[1],
    }
  end
  return tenants[name]
end

local function has_free_slot(tenant)
  return call('SCARD', active_key(tenant)) < tenant_of(tenant).limit
end

-- The pool's virtual time, read once per script; exchange.lua writes it after it has handed out jobs.
local virtual_times = {}
local function virtual_time(pool)
  virtual_times[pool] = virtual_times[pool] or number_or(call('HGET', in_queue(pool, 'state'), 'virtual'), 0)
  return virtual_times[pool]
end

-- Updates `eligible` and `blocked` for one tenant of one pool. Call it after every change that may affect them.
-- A notification is published when `eligible` turns from empty to not. A consumer that sleeps with an idle thread saw
-- it empty when it last asked, so no wake-up is lost, and a busy pool publishes nothing.
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

  local is_eligible = (ready > 0 or is_free) and not tenant_of(tenant).is_paused
  local eligible = in_queue(pool, 'eligible')
  local at = call('ZSCORE', eligible, tenant)
  if ready + waiting == 0 then
    call('SREM', tenant_key(tenant) .. ':pools', pool)
  elseif not at and was_blocked == 0 then
    -- A tenant that was eligible or blocked is already in the set.
    call('SADD', tenant_key(tenant) .. ':pools', pool)
  end
  if is_eligible and not at then
    -- Start-time fair queueing (Goyal, Vin, Cheng 1996): a returning tenant starts no earlier than the pool's
    -- virtual time (no credit for idling) and no earlier than it left (no credit for leaving).
    local virtual = virtual_time(pool)
    local left_at = number_or(call('ZSCORE', in_queue(pool, 'served'), tenant), 0)
    local was_empty = call('ZCARD', eligible) == 0
    call('ZADD', eligible, math.max(virtual, left_at), tenant)
    call('ZREM', in_queue(pool, 'served'), tenant)
    if was_empty then
      call('PUBLISH', 'build:new', pool)
    end
  elseif at and not is_eligible then
    call('ZREM', eligible, tenant)
    if tonumber(at) > virtual_time(pool) then
      call('ZADD', in_queue(pool, 'served'), tonumber(at), tenant)
    end
  end
end

local function refresh_tenant(tenant)
  for _, pool in ipairs(call('SMEMBERS', tenant_key(tenant) .. ':pools')) do
    refresh(pool, tenant)
  end
end

-- Puts a job into ready or waiting, at its own score. The caller must refresh, and write the returned state.
local function place(job)
  local list = 'ready'
  if job.slot ~= '' and call('SISMEMBER', active_key(job.tenant), job.slot) == 0 then
    list = 'waiting'
  end
  call('ZADD', in_queue(job.pool, list .. ':' .. job.tenant), job.score, job.id)
  call('ZADD', in_queue(job.pool, 'enqueued'), job.enqueued, job.id)
  return list
end

-- Puts a job into delayed, ready or waiting. The caller must write the returned state.
local function enter_line(job, due)
  tenant_of(job.tenant).depth = call('HINCRBY', tenant_key(job.tenant), 'depth', 1)
  if due > now then
    call('SADD', root .. 'pools', job.pool)
    call('ZADD', in_queue(job.pool, 'delayed'), due, job.id)
    return 'delayed'
  end
  local list = place(job)
  -- Another ready job changes nothing for a tenant that is already eligible.
  if list ~= 'ready' or not call('ZSCORE', in_queue(job.pool, 'eligible'), job.tenant) then
    call('SADD', root .. 'pools', job.pool)
    refresh(job.pool, job.tenant)
  end
  return list
end

local function drop_dead(job)
  call('ZREM', in_queue(job.pool, 'dead'), job.id)
  call('DEL', job_key(job.id))
end

-- A job takes 11 arguments: id pool tenant slot priority limit weight max enqueued delay_ms body.
local JOB_FIELDS = 11

local function job_arguments(first)
  return {
    id = ARGV[first], pool = ARGV[first + 1], tenant = ARGV[first + 2], slot = ARGV[first + 3],
    priority = tonumber(ARGV[first + 4]), limit = tonumber(ARGV[first + 5]), weight = tonumber(ARGV[first + 6]), max = ARGV[first + 7],
    enqueued = ARGV[first + 8] ~= '' and tonumber(ARGV[first + 8]) or now,
    delay = tonumber(ARGV[first + 9]), body = ARGV[first + 10],
  }
end

local function set_tenant(name, limit, weight)
  local tenant = tenant_of(name)
  local has_other_limit = not tenant.is_known or tenant.limit ~= limit
  if has_other_limit or tenant.weight ~= weight then
    call('HSET', tenant_key(name), 'limit', limit, 'weight', weight)
    tenant.limit, tenant.weight, tenant.is_known = limit, weight, true
  end
  if has_other_limit then
    refresh_tenant(name)
  end
end

-- Returns 1, or 0 if a job with this id already waits or runs; a dead one is replaced. `refuse(job)` returns nil, or
-- the value to return for a job that it refuses.
local function insert(job, refuse)
  local existing = call('HMGET', job_key(job.id), 'state', 'pool')
  if existing[1] and existing[1] ~= 'dead' then
    return 0
  end
  local refusal = refuse and refuse(job)
  if refusal then
    return refusal
  end
  if existing[1] then
    drop_dead({id = job.id, pool = existing[2]})
  end
  job.score = job.enqueued + job.priority * PRIORITY_MS
  set_tenant(job.tenant, job.limit, job.weight)
  if job.slot ~= '' then
    call('SADD', slot_key(job.tenant, job.slot), job.id)
  end
  local state = enter_line(job, now + job.delay)
  call('HSET', job_key(job.id), 'body', job.body, 'pool', job.pool, 'tenant', job.tenant, 'slot', job.slot,
    'score', job.score, 'enqueued', job.enqueued, 'attempts', 0, 'max', job.max, 'state', state,
    'since', now + job.delay)
  return 1
end
