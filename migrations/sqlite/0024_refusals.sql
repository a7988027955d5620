-- What the database, by a rule of the application such as a trigger or a constraint, refused of an attempt: its result, or
-- to queue its run again. The code of the error and the name of the rule, nothing of a row.
ALTER TABLE verifyd_run_attempts ADD COLUMN result_refusal TEXT;
ALTER TABLE verifyd_run_attempts ADD COLUMN requeue_refusal TEXT;
