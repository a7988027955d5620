-- What the database, by a rule of the application such as a trigger or a constraint, refused of an attempt: its result, or
-- to queue its run again. The code of the error and the name of the rule, nothing of a row.
ALTER TABLE verifyd.run_attempts ADD COLUMN result_refusal text, ADD COLUMN requeue_refusal text;

-- What `doctor` reads. Attempts of which nothing was refused are not in it.
CREATE INDEX run_attempts_refused ON verifyd.run_attempts (run_id)
    WHERE result_refusal IS NOT NULL OR requeue_refusal IS NOT NULL;
