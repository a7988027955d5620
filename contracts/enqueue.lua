-- Enqueues one delivery: the only way in which anything may write to the queue.
--
-- It works from any language by EVAL or EVALSHA, on one primary (not on a Redis Cluster: it touches
-- a key that is made from an argument). A consumer is woken at once. Writing these keys one by one
-- instead would let a worker see a delivery without its data.
--
-- KEYS[1]  Q:data      hash: task id -> payload
-- KEYS[2]  Q:active    list of the task ids that wait
-- KEYS[3]  Q:signal    list that other readers of this format block on; not written here
-- KEYS[4]  Q:meta      prefix of one hash per delivery
--          (Q is the queue's name, `redis.queue` in the configuration: verifyd)
-- ARGV[1]  task id: fresh for every delivery, printable ASCII, at most 128 bytes; a UUID is best.
--          An id that was used before is dropped until it has been cleaned up.
-- ARGV[2]  payload: JSON as in job.v1.schema.json, at most 4096 bytes
-- ARGV[3]  max_attempts: 1 (attempts are counted in the database)
--
-- Returns  1: enqueued; 0: this id is in the queue already, nothing was written.
--          An error, and nothing written, for an id that the consumer cannot hand back as it was
--          written (it reads ids as numbers and as ULIDs where it can): numbers with a sign or
--          leading zeros, and 26 letters and digits that are no upper-case ULID.
--
-- Example  redis-cli --eval enqueue.lua verifyd:data verifyd:active verifyd:signal verifyd:meta , \
--            "$(uuidgen)" '{"v":1,"operation_run_id":42}' 1

if #KEYS < 4 or #ARGV < 3 then
  return redis.error_reply('ERR the script takes 4 keys, and as arguments task id, payload and max_attempts')
end
local id = ARGV[1]
if #id == 0 or #id > 128 or string.find(id, '[^\33-\126]') then
  return redis.error_reply('ERR the task id must be 1 to 128 printable ASCII characters')
end
if string.find(id, '^%+?%d+$') and id ~= '0' and not string.find(id, '^[1-9]') then
  return redis.error_reply('ERR a numeric task id must have no sign and no leading zeros')
end
if #id == 26 and not string.find(id, '%W')
  and not string.find(id, '^[0-7][0-9A-HJKMNP-TV-Z]+$') then
  return redis.error_reply('ERR a task id of 26 letters and digits must be an upper-case ULID')
end
if #ARGV[2] > 4096 then
  return redis.error_reply('ERR the payload must have at most 4096 bytes')
end
if not string.find(ARGV[3], '^%d%d?%d?$') then
  return redis.error_reply('ERR max_attempts must be a number from 0 to 999')
end

if redis.call('HSETNX', KEYS[1], id, ARGV[2]) == 0 then
  return 0
end
redis.call('HSET', KEYS[4] .. ':' .. id, 'attempts', 0, 'max_attempts', ARGV[3], 'status', 'Pending')
redis.call('RPUSH', KEYS[2], id)
redis.call('PUBLISH', 'tasks:' .. KEYS[2] .. ':available', id)
return 1
