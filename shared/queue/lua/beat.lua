-- Renews leases.
-- KEYS  [1] root
-- ARGV  [1] lease ms, then a job id and a token for each lease
-- Reply for each lease 0 renewed, 1 lost, 2 renewed and the job was cancelled
local reply = {}
for i = 2, #ARGV, 2 do
  local v = call('HMGET', job_key(ARGV[i]), 'state', 'token', 'pool', 'cancel')
  if v[1] == 'running' and v[2] == ARGV[i + 1] then
    call('ZADD', in_queue(v[3], 'leases'), now + tonumber(ARGV[1]), ARGV[i])
    reply[#reply + 1] = v[4] and 2 or 0
  else
    reply[#reply + 1] = 1
  end
end
return reply
