-- The one row that a sweep locks, so that one replica at a time sweeps. Roles without rights on this table cannot lock
-- it, as they could take an advisory lock.
CREATE TABLE verifyd.sweep_lock (
    id integer PRIMARY KEY,
    CONSTRAINT sweep_lock_one CHECK (id = 1)
);
INSERT INTO verifyd.sweep_lock (id) VALUES (1);
