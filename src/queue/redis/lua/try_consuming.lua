-- Runs each command that a consumer needs, on keys that nobody else uses, and removes these, as one step. Whoever may
-- not remove them writes nothing.
--
-- KEYS     Q:inflight:<id>, Q:workers:metadata:<id>
-- Returns  {error of the first command that failed, names of all that did}, or nothing

local key, metadata = KEYS[1], KEYS[2]
local commands = {
  { 'UNLINK', key, metadata },
  { 'TIME' },
  { 'TYPE', key },
  { 'SCAN', 0, 'COUNT', 1 },
  { 'HMSET', metadata, 'service', 'a' },
  { 'DEL', metadata },
  { 'HSET', key, 'a', 'b' },
  { 'HSETNX', key, 'a', 'b' },
  { 'HGET', key, 'a' },
  { 'HMGET', key, 'a' },
  { 'HEXISTS', key, 'a' },
  { 'HLEN', key },
  { 'HSTRLEN', key, 'a' },
  { 'HRANDFIELD', key, 1 },
  { 'HDEL', key, 'a' },
  { 'UNLINK', key },
  { 'RPUSH', key, 'a' },
  { 'LPUSH', key, 'b' },
  { 'LLEN', key },
  { 'LRANGE', key, 0, 0 },
  { 'LREM', key, -1, 'a' },
  { 'LTRIM', key, 1, -1 },
  { 'UNLINK', key },
  { 'SADD', key, 'a', 'b' },
  { 'SCARD', key },
  { 'SMEMBERS', key },
  { 'SRANDMEMBER', key, 1 },
  { 'SREM', key, 'a' },
  { 'SPOP', key, 1 },
  { 'UNLINK', key },
  { 'ZADD', key, 1, 'a' },
  { 'ZSCORE', key, 'a' },
  { 'ZRANGE', key, 0, 0 },
  { 'ZRANGEBYSCORE', key, 0, 1, 'LIMIT', 0, 1 },
  { 'ZREM', key, 'a' },
  { 'UNLINK', key, metadata },
}
local failed = {}
for i, command in ipairs(commands) do
  local answer = redis.pcall(unpack(command))
  if type(answer) == 'table' and answer.err then
    if #failed == 0 then failed[1] = answer.err end
    failed[#failed + 1] = command[1]
    if i == 1 then break end
  end
end
return failed
