-- Removes dead letters beyond the number that is kept. A set has no order, so the oldest of
-- a random sample go, by the time at which they were refused: the more there are, the closer this comes to
-- keeping the newest.
--
-- KEYS     Q:dead, Q:data, Q:meta
-- ARGV[1]  most entries per call
-- ARGV[2]  entries to keep
-- Returns  number of entries removed

local excess = redis.call('SCARD', KEYS[1]) - tonumber(ARGV[2])
if excess <= 0 then return 0 end
local sample = redis.call('SRANDMEMBER', KEYS[1], tonumber(ARGV[1]))
local aged = {}
for i, id in ipairs(sample) do
  aged[i] = { tonumber(redis.call('HGET', KEYS[3] .. ':' .. id, 'done_at') or 0) or 0, id }
end
table.sort(aged, function(a, b) return a[1] < b[1] end)
local gone = math.min(excess, #aged)
for i = 1, gone do
  local id = aged[i][2]
  redis.call('SREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
  redis.call('UNLINK', KEYS[3] .. ':' .. id)
end
return gone
