-- Nothing: writing transactions come one after another. See migrations/postgres.
SELECT 1;
