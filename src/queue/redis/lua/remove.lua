-- Removes the keys of one step of SCAN. Their names stay in Redis, however long they are.
--
-- ARGV[1]  where SCAN goes on
-- ARGV[2]  the pattern of the queue's keys
-- ARGV[3]  keys to look at
-- Returns  {where to go on, number of keys removed}

local step = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', tonumber(ARGV[3]))
local removed = 0
for _, key in ipairs(step[2]) do removed = removed + redis.call('UNLINK', key) end
return { step[1], removed }
