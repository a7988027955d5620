-- The guard of migration 3 without `jsonb_each` and `jsonb_object_agg`: in PostgreSQL 18 the time of that aggregate
-- grows with the square of the members, and it cannot be cancelled.
CREATE OR REPLACE FUNCTION verifyd.guard_completed_run() RETURNS trigger LANGUAGE plpgsql AS $guard$
DECLARE
    wanted jsonb := new.context;
    final text[] := '{verification_report}';
    name text;
BEGIN
    IF jsonb_typeof(old.context) = 'object' THEN
        IF jsonb_typeof(wanted) IS DISTINCT FROM 'object' THEN
            wanted := old.context;
        END IF;
        IF old.outcome = 'blocked' THEN
            final := '{verification_report,reason_code,next_steps}';
        END IF;
        FOREACH name IN ARRAY final LOOP
            IF old.context ? name THEN
                wanted := wanted || jsonb_build_object(name, old.context -> name);
            END IF;
        END LOOP;
    END IF;
    IF wanted IS DISTINCT FROM new.context
       OR (new.status, new.outcome, new.started_at, new.completed_at, new.failure_summary)
           IS DISTINCT FROM
           (old.status, old.outcome, old.started_at, old.completed_at, old.failure_summary)
    THEN
        new.context := wanted;
        new.status := old.status;
        new.outcome := old.outcome;
        new.started_at := old.started_at;
        new.completed_at := old.completed_at;
        new.failure_summary := old.failure_summary;
        RAISE WARNING 'run % is completed: outcome, times, failures and report stay as they are', old.id;
    END IF;
    RETURN new;
END
$guard$;
