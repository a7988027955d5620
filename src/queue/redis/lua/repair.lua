-- Shared start of hand_back.lua and sift.lua.
--
-- A worker that fetches an entry without data, or without proper meta, ends; and so does one that
-- acknowledges an id that it read as a number or as a ULID and writes back differently. Such
-- entries come from somebody who did not use enqueue.lua. The payload is what counts: where there
-- is one it is given proper meta and, if need be, another id; where there is none the entry goes.

local function proper_id(id)
  if #id == 0 or #id > 128 or string.find(id, '[^\33-\126]') then return false end
  if string.find(id, '^%+?%d+$') and id ~= '0' and not string.find(id, '^[1-9]') then
    return false
  end
  if #id == 26 and not string.find(id, '%W')
    and not string.find(id, '^[0-7][0-9A-HJKMNP-TV-Z]+$') then
    return false
  end
  return true
end

local function proper_meta(key)
  if redis.call('TYPE', key).ok ~= 'hash' then return false end
  local meta = redis.call('HMGET', key, 'attempts', 'max_attempts', 'status')
  return meta[1] and string.find(meta[1], '^%d+$') and #meta[1] < 9
    and meta[2] and string.find(meta[2], '^%d+$') and #meta[2] < 9
    and meta[3] == 'Pending'
end

-- Returns the id to enqueue, or nil when nothing is left to deliver.
local function renew(data, meta, id)
  local payload = redis.call('HGET', data, id)
  redis.call('DEL', meta .. ':' .. id)
  if not payload then return nil end
  local name = id
  if not proper_id(id) then
    name = 'r' .. redis.sha1hex(id)
    redis.call('HDEL', data, id)
    redis.call('HSET', data, name, payload)
  end
  redis.call('HSET', meta .. ':' .. name, 'attempts', 0, 'max_attempts', 1, 'status', 'Pending')
  return name
end
