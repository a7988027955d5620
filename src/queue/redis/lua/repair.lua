-- Shared start of fetch.lua and return_held.lua.
--
-- Entries that are not as enqueue.lua writes them come from somebody else. The payload is what
-- counts: where there is one it is given proper meta and, if need be, another id; where there is
-- none the entry goes. What is too long goes, too, and is not even read.

-- Longest id that is given another one.
local max_id = 4096

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
  if redis.pcall('HLEN', key) ~= 3 then return false end
  local meta = redis.call('HMGET', key, 'attempts', 'max_attempts', 'status')
  return meta[1] and #meta[1] < 9 and string.find(meta[1], '^%d+$')
    and meta[2] and #meta[2] < 9 and string.find(meta[2], '^%d+$')
    and meta[3] == 'Pending'
end

-- Returns the length of the payload, or nil when it or its id is too long.
local function length(data, id, limit)
  if #id > max_id then return nil end
  local bytes = redis.call('HSTRLEN', data, id)
  return bytes <= tonumber(limit) and bytes or nil
end

-- Removes payload and meta.
local function forget(data, meta, id)
  redis.call('HDEL', data, id)
  redis.call('UNLINK', meta .. ':' .. id)
end

-- Returns the id to enqueue, or nil when nothing is left to deliver.
local function renew(data, meta, id)
  redis.call('UNLINK', meta .. ':' .. id)
  if redis.call('HEXISTS', data, id) == 0 then return nil end
  local name = id
  if not proper_id(id) then
    name = 'r' .. redis.sha1hex(id)
    redis.call('HSET', data, name, redis.call('HGET', data, id))
    redis.call('HDEL', data, id)
    redis.call('UNLINK', meta .. ':' .. name)
  end
  redis.call('HSET', meta .. ':' .. name, 'attempts', 0, 'max_attempts', 1, 'status', 'Pending')
  return name
end

