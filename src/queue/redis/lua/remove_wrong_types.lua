-- Removes keys that producers may write and that hold something of another type. Nothing could be
-- sent or fetched any more.
--
-- KEYS     Q:active, Q:data, Q:signal
-- Returns  number of keys removed

local removed = 0
for i, expected in ipairs({ 'list', 'hash', 'list' }) do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'none' and found ~= expected then
    removed = removed + redis.call('UNLINK', KEYS[i])
  end
end
return removed
