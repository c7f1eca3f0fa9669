-- Hands out up to `count` jobs, each with its tenant's slot, a lease and a fencing token.
-- KEYS  [1] root
-- ARGV  [1] pool, [2] count, [3] worker, [4] request id, [5] lease ms
-- Reply {ms until the next delayed job or lease is due or -1, {id, body, token, attempt, enqueued ms, is cancelled}…}
--       A request id that was answered before gets the same jobs again, as far as their leases still are its own.
local pool, count, worker, lease = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[5])
local request = root .. 'request:' .. ARGV[4]
local reply = {-1}

local function describe(id, token)
  local v = call('HMGET', job_key(id), 'body', 'attempts', 'enqueued', 'cancel')
  return {id, v[1], token, tonumber(v[2]), tonumber(v[3]), v[4] and 1 or 0}
end

local answered = call('LRANGE', request, 0, -1)
if #answered > 0 then
  for i = 1, #answered, 2 do
    local job = read_job(answered[i])
    if job and job.state == 'running' and job.token == answered[i + 1] then
      reply[#reply + 1] = describe(job.id, tonumber(job.token))
    end
  end
  return reply
end

sweep(pool, 100)

local function next_token()
  local last = number_or(call('GET', root .. 'fence'), 0)
  -- The clock's microseconds keep it growing when Redis has lost the last one.
  local token = math.max(last + 1, now_us)
  call('SET', root .. 'fence', token)
  return token
end

-- The first in the tenant's line: of both lists while a slot is free, of `ready` alone when none is.
local function first_of(tenant)
  local ready = call('ZRANGE', in_queue(pool, 'ready:' .. tenant), 0, 0, 'WITHSCORES')
  local waiting = call('ZRANGE', in_queue(pool, 'waiting:' .. tenant), 0, 0, 'WITHSCORES')
  if not waiting[1] or not has_free_slot(tenant) then
    return ready[1]
  end
  if not ready[1] then
    return waiting[1]
  end
  local first, second = tonumber(waiting[2]), tonumber(ready[2])
  -- Equal scores go by id, as they do within each list.
  return (first < second or (first == second and waiting[1] < ready[1])) and waiting[1] or ready[1]
end

local eligible, state = in_queue(pool, 'eligible'), in_queue(pool, 'state')
local is_paused = call('HGET', state, 'paused')
while not is_paused and #reply <= count do
  local head = call('ZRANGE', eligible, 0, 0, 'WITHSCORES')
  if not head[1] then
    break
  end
  local tenant, virtual = head[1], tonumber(head[2])
  local job = read_job(first_of(tenant))
  leave_line(job)
  local token = next_token()
  call('HSET', job_key(job.id), 'state', 'running', 'token', token, 'worker', worker, 'started', now)
  call('HINCRBY', job_key(job.id), 'attempts', 1)
  call('ZADD', in_queue(pool, 'leases'), now + lease, job.id)
  if job.state == 'waiting' then
    take_slot(tenant, job.slot)
  end
  call('HSET', state, 'virtual', virtual)
  call('ZADD', eligible, virtual + 1 / number_or(call('HGET', tenant_key(tenant), 'weight'), 1), tenant)
  refresh(pool, tenant)
  reply[#reply + 1] = describe(job.id, token)
  call('RPUSH', request, job.id, token)
end
if #reply > 1 then
  call('PEXPIRE', request, lease)
end

for _, name in ipairs({'delayed', 'leases'}) do
  local head = call('ZRANGE', in_queue(pool, name), 0, 0, 'WITHSCORES')
  if head[1] then
    local wait = math.max(0, tonumber(head[2]) - now)
    reply[1] = reply[1] < 0 and wait or math.min(reply[1], wait)
  end
end
return reply
