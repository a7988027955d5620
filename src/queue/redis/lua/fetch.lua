-- Takes the next deliveries. In place of apalis-redis' own script, which passes on whatever the
-- hashes hold, of any size.
--
-- What a producer wrote is looked at before it leaves Redis: a payload that is too long is removed
-- unread, with all that belongs to it. So is an entry without a payload. An entry whose id or meta
-- a worker could not use is given proper ones. The meta stays in Redis.
--
-- KEYS     Q:workers, Q:active, Q:inflight:<worker>, Q:data, Q:meta, Q:scheduled
-- ARGV[1]  most entries
-- ARGV[2]  worker
-- ARGV[3]  most bytes of a payload
-- Returns  {looked at, repaired, dropped, too large, {id, payload, id, payload, ...}}

-- Scheduled entries that are moved in one call.
local due_at_once = 500

local workers, active, inflight, data, meta, scheduled = unpack(KEYS)
if not redis.call('ZSCORE', workers, ARGV[2]) then
  return redis.error_reply('ERR the worker is not registered')
end

-- verifyd schedules nothing. Others may have, and would wait for ever.
local due = redis.call(
  'ZRANGEBYSCORE', scheduled, '-inf', redis.call('TIME')[1], 'LIMIT', 0, due_at_once
)
if #due > 0 then
  redis.call('RPUSH', active, unpack(due))
  redis.call('ZREM', scheduled, unpack(due))
end

local ids = redis.call('LRANGE', active, 0, tonumber(ARGV[1]) - 1)
if #ids == 0 then return { 0, 0, 0, 0, {} } end
redis.call('LTRIM', active, #ids, -1)

local taken, repaired, dropped, large = {}, 0, 0, 0
for _, id in ipairs(ids) do
  local name = id
  local bytes = length(data, id, ARGV[3])
  if not bytes then
    forget(data, meta, id)
    name = nil
    large = large + 1
  elseif bytes == 0 or not proper_id(id) or not proper_meta(meta .. ':' .. id) then
    name = renew(data, meta, id)
    if name then repaired = repaired + 1 else dropped = dropped + 1 end
  end
  -- An id that this worker holds already could be acknowledged only once.
  if name and redis.call('SADD', inflight, name) == 1 then
    taken[#taken + 1] = name
    taken[#taken + 1] = redis.call('HGET', data, name)
  elseif name then
    dropped = dropped + 1
  end
end
return { #ids, repaired, dropped, large, taken }
