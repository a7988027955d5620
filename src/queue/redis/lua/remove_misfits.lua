-- Removes keys that hold something of another type than theirs. Nothing could be sent, fetched or acknowledged any more.
-- Also looks at what the workers hold that have been silent for longest: others return that to the queue.
--
-- KEYS     Q:workers, any others
-- ARGV[1]  prefix of Q:inflight:<worker>
-- ARGV[2]  workers to look at
-- ARGV[3]  type of KEYS[1], and so on
-- Returns  number of keys removed

local removed = 0
local function check(key, expected)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= expected then
    removed = removed + redis.call('UNLINK', key)
  end
end
for i, key in ipairs(KEYS) do check(key, ARGV[i + 2]) end
for _, worker in ipairs(redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[2]) - 1)) do
  check(ARGV[1] .. worker, 'set')
end
return removed
