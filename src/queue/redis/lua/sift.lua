-- Looks through the next entries of the queue and repairs or drops what would end a worker. The
-- order of the others stays.
--
-- KEYS     Q:active, Q:data, Q:meta
-- ARGV[1]  entries to look at
-- Returns  {looked at, repaired, dropped}

local ids = redis.call('LRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1)
local keep, repaired, dropped = {}, 0, 0
for _, id in ipairs(ids) do
  if redis.call('HEXISTS', KEYS[2], id) == 1
    and proper_id(id) and proper_meta(KEYS[3] .. ':' .. id) then
    keep[#keep + 1] = id
  else
    local name = renew(KEYS[2], KEYS[3], id)
    if name then
      keep[#keep + 1] = name
      repaired = repaired + 1
    else
      dropped = dropped + 1
    end
  end
end
if repaired + dropped > 0 then
  redis.call('LTRIM', KEYS[1], #ids, -1)
  for i = #keep, 1, -1 do
    redis.call('LPUSH', KEYS[1], keep[i])
  end
end
return { #ids, repaired, dropped }
