-- Removes what registration wrote for a worker that is on the list no more.
--
-- KEYS     Q:workers, Q:workers:metadata:<worker>
-- ARGV[1]  worker
-- Returns  1 when it was removed

if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
return redis.call('UNLINK', KEYS[2])
