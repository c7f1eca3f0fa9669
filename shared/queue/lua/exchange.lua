-- Ends leases, then hands out jobs, in one step; either part may be empty.
-- With jobs.lua
-- KEYS  [1] root
-- ARGV  [1] pool to hand out from, '' for none, [2] maximum jobs, [3] worker, [4] request id, [5] lease ms,
--       [6] id of a request whose reply has arrived, to be deleted, or '', [7] number of leases to end; for each:
--       job id, token, disposition (done, retry, release, wait or dead), delay ms, reason of a death, number of next
--       jobs, then their fields (see prelude)
-- Reply {{1 applied, or 0 the caller doesn't hold the lease any more and nothing was changed …}, ms until the next
--       delayed job or lease is due or -1, {{body, token, attempt, enqueued ms, is cancelled, ms in line}…}}
--       A repeated request id gets the same jobs again, except those whose leases it has lost.
--       A job is handed out with its tenant's slot, a lease and a fencing token.
local pool, count, worker, request_id, lease = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local applied, reply = {}, {}
local ended, run_times = {}, {} -- by pool

-- After a failed attempt, its worker leaves the job to others for so long, if there are any.
local AVOIDED_MS = 10000
-- A worker that leaves a job to others asks again so soon: no notification comes for a tenant that is eligible already.
local ASK_AGAIN_MS = 100

-- For every disposition but done: the job stays, in line or as a dead letter.
local function put_back(job, disposition, due, reason)
  if disposition == 'wait' then
    give_up_slot(job)
    return_to_line(job, due, job.attempts - 1)
  elseif disposition == 'release' then
    return_to_line(job, due, job.attempts - 1)
  elseif disposition == 'retry' and job.attempts < job.max then
    call('HSET', job_key(job.id), 'avoids', call('HGET', job_key(job.id), 'worker') or '')
    call('ZADD', in_queue(job.pool, 'avoided'), due + AVOIDED_MS, job.id)
    return_to_line(job, due, job.attempts)
  else
    bury(job, reason)
  end
end

local at = 8
for i = 1, tonumber(ARGV[7]) do
  local id, disposition, next_jobs = ARGV[at], ARGV[at + 2], tonumber(ARGV[at + 5])
  -- Fewer fields than read_job: those that ending a done job needs, as most are.
  local v = call('HMGET', job_key(id), 'state', 'token', 'pool', 'tenant', 'slot', 'started')
  applied[i] = 0
  if v[1] == 'running' and v[2] == ARGV[at + 1] then
    applied[i] = 1
    ended[v[3]] = ended[v[3]] or {}
    table.insert(ended[v[3]], id)
    if disposition == 'done' then
      -- The job is deleted first, so that a successor may have its id.
      run_times[v[3]] = run_times[v[3]] or {}
      table.insert(run_times[v[3]], now - number_or(v[6], now))
      call('DEL', job_key(id))
      leave_slot({id = id, tenant = v[4], slot = v[5]})
    else
      put_back(read_job(id), disposition, now + tonumber(ARGV[at + 3]), ARGV[at + 4])
    end
    for next_job = 0, next_jobs - 1 do
      insert(job_arguments(at + 6 + next_job * JOB_FIELDS))
    end
    -- The slot is checked last, so that a successor keeps it.
    if disposition == 'done' then
      free_slot_if_unused(v[4], v[5])
    end
  end
  at = at + 6 + next_jobs * JOB_FIELDS
end
for name, ids in pairs(ended) do
  call_many('ZREM', in_queue(name, 'leases'), ids)
end
for name, samples in pairs(run_times) do
  moving_average(in_queue(name, 'state'), 'mean_ms', samples)
end
if ARGV[6] ~= '' then
  call('DEL', root .. 'request:' .. ARGV[6])
end
if pool == '' then
  return {applied, -1, {}}
end

local request = root .. 'request:' .. request_id
local answered = call('LRANGE', request, 0, -1)
if #answered > 0 then
  for i = 1, #answered, 2 do
    local v = call('HMGET', job_key(answered[i]), 'state', 'token', 'body', 'attempts', 'enqueued', 'cancel', 'since',
      'started')
    if v[1] == 'running' and v[2] == answered[i + 1] then
      local waited = tonumber(v[8]) - number_or(v[7], tonumber(v[8]))
      reply[#reply + 1] = {v[3], tonumber(v[2]), tonumber(v[4]), tonumber(v[5]), v[6] and 1 or 0, math.max(0, waited)}
    end
  end
  return {applied, -1, reply}
end

sweep(pool, 100)

local eligible, state = in_queue(pool, 'eligible'), in_queue(pool, 'state')
local token = number_or(call('GET', root .. 'fence'), 0)
local handed_out, served, leases = {}, {}, {}

-- Jobs in line whose last attempt failed at this worker, while another worker of the pool takes jobs. At most 100.
local passed_over, passed = {}, 0

local function has_other_worker()
  for _, other in ipairs(call('ZRANGEBYSCORE', in_queue(pool, 'workers'), now, '+inf', 'LIMIT', 0, 100)) do
    if other ~= worker then
      local its_state = call('HGET', root .. 'worker:' .. pool .. ':' .. other, 'state')
      if not its_state or its_state == 'running' then
        return true
      end
    end
  end
  return false
end

local function find_passed_over()
  local avoided = in_queue(pool, 'avoided')
  if call('EXISTS', avoided) == 0 then
    return
  end
  call('ZREMRANGEBYSCORE', avoided, '-inf', now)
  for _, id in ipairs(call('ZRANGE', avoided, 0, 99)) do
    local v = call('HMGET', job_key(id), 'avoids', 'state')
    if v[1] == worker and (v[2] == 'ready' or v[2] == 'waiting') then
      passed_over[id], passed = true, passed + 1
    end
  end
  if passed > 0 and not has_other_worker() then
    passed_over, passed = {}, 0
  end
end

local function without_passed(ids, most)
  if passed == 0 then
    return ids
  end
  local kept = {}
  for _, id in ipairs(ids) do
    if not passed_over[id] and #kept < most then
      kept[#kept + 1] = id
    end
  end
  return kept
end

local function first_waiting(tenant)
  local waiting = call('ZRANGE', in_queue(pool, 'waiting:' .. tenant), 0, passed, 'WITHSCORES')
  for i = 1, #waiting, 2 do
    if not passed_over[waiting[i]] then
      return {waiting[i], waiting[i + 1]}
    end
  end
  return {}
end

-- Up to `most` jobs from the head of the tenant's line, all of one list, and the list's name. The line is both lists
-- by score while a slot is free, and `ready` alone otherwise.
local function first_of(tenant, most)
  local ready = without_passed(call('ZRANGE', in_queue(pool, 'ready:' .. tenant), 0, most - 1 + passed), most)
  local waiting = first_waiting(tenant)
  if not waiting[1] or not has_free_slot(tenant) then
    return ready, 'ready'
  end
  local first = tonumber(waiting[2])
  local second = ready[1] and tonumber(call('ZSCORE', in_queue(pool, 'ready:' .. tenant), ready[1]))
  -- Equal scores are ordered by id, as within each list.
  if not second or first < second or (first == second and waiting[1] < ready[1]) then
    return {waiting[1]}, 'waiting'
  end
  return {ready[1]}, 'ready'
end

local function hand_out(id)
  local v = call('HMGET', job_key(id), 'body', 'attempts', 'enqueued', 'cancel', 'slot', 'since')
  local attempt = tonumber(v[2]) + 1
  -- The clock's microseconds keep tokens growing after Redis has lost the last one.
  token = math.max(token + 1, now_us)
  call('HSET', job_key(id), 'state', 'running', 'token', token, 'worker', worker, 'started', now, 'attempts', attempt)
  served[#served + 1] = id
  leases[#leases + 1], leases[#leases + 2] = now + lease, id
  handed_out[#handed_out + 1], handed_out[#handed_out + 2] = id, token
  -- A job of the version before this one doesn't say since when it has been in line.
  local waited = math.max(0, now - number_or(v[6], now))
  reply[#reply + 1] = {v[1], token, attempt, tonumber(v[3]), v[4] and 1 or 0, waited}
  return v[5]
end

-- A tenant's turn: it is served as long as it is first in virtual time. Returns false if it has no job to hand out.
local function serve(tenant, virtual, next_tenant, next_virtual)
  local step, most = 1 / tenant_of(tenant).weight, math.min(count - #served, 1000)
  local ids, list = first_of(tenant, most)
  if not ids[1] then
    refresh(pool, tenant)
    return false
  end
  local number = 0
  repeat
    -- A tenant whose jobs were passed over is served late, and must not turn the pool's time back.
    virtual_times[pool] = math.max(virtual_time(pool), virtual)
    virtual, number = virtual + step, number + 1
  until number == #ids or (next_virtual and (virtual > next_virtual or virtual == next_virtual and tenant > next_tenant))
  call('ZADD', eligible, virtual, tenant)
  call('ZREM', in_queue(pool, list .. ':' .. tenant), unpack(ids, 1, number))
  call('HINCRBY', tenant_key(tenant), 'depth', -number)
  local slot
  for i = 1, number do
    slot = hand_out(ids[i])
  end
  if list == 'waiting' then
    take_slot(tenant, slot, ids[1])
  elseif call('ZCARD', in_queue(pool, 'ready:' .. tenant)) == 0 then
    refresh(pool, tenant)
  end
  return true
end

if count > 0 and call('HGET', state, 'paused') then
  count = 0
end
if count > 0 then
  find_passed_over()
end
local skipped = 0
while #served < count do
  local heads = call('ZRANGE', eligible, skipped, skipped + 1, 'WITHSCORES')
  if not heads[1] then
    break
  end
  local is_served = serve(heads[1], tonumber(heads[2]), heads[3], heads[4] and tonumber(heads[4]))
  if not is_served and call('ZSCORE', eligible, heads[1]) then
    skipped = skipped + 1
  end
end
if #served > 0 then
  call('SET', root .. 'fence', token)
  call('HSET', state, 'virtual', virtual_times[pool])
  call_many('ZREM', in_queue(pool, 'enqueued'), served)
  call_many('ZADD', in_queue(pool, 'leases'), leases)
  call_many('RPUSH', request, handed_out)
  call('PEXPIRE', request, lease)
end

local next_due = -1
for _, name in ipairs({'delayed', 'leases'}) do
  local head = call('ZRANGE', in_queue(pool, name), 0, 0, 'WITHSCORES')
  if head[1] then
    local wait = math.max(0, tonumber(head[2]) - now)
    next_due = next_due < 0 and wait or math.min(next_due, wait)
  end
end
if passed > 0 then
  next_due = next_due < 0 and ASK_AGAIN_MS or math.min(next_due, ASK_AGAIN_MS)
end
return {applied, next_due, reply}
