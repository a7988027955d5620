-- Returns what a worker holds to the queue and removes the worker from the list.
--
-- KEYS     Q:inflight:<worker>, Q:active, Q:data, Q:meta, Q:workers, Q:workers:metadata:<worker>
-- ARGV[1]  worker
-- ARGV[2]  most entries per call
-- ARGV[3]  most bytes of a payload
-- Returns  {returned, dropped, too large, left for the next call}

local ids = redis.call('SPOP', KEYS[1], tonumber(ARGV[2]))
local returned, dropped, large = 0, 0, 0
for _, id in ipairs(ids) do
  if not length(KEYS[3], id, ARGV[3]) then
    forget(KEYS[3], KEYS[4], id)
    large = large + 1
  else
    local name = renew(KEYS[3], KEYS[4], id)
    if name then
      redis.call('RPUSH', KEYS[2], name)
      returned = returned + 1
    else
      dropped = dropped + 1
    end
  end
end
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('DEL', KEYS[6])
if returned > 0 then
  redis.call('PUBLISH', 'tasks:' .. KEYS[2] .. ':available', ARGV[1])
end
return { returned, dropped, large, redis.call('SCARD', KEYS[1]) }
