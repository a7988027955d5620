-- A text may give a member more than once, also with `\u` in its name. Here only one `verification_report`, `reason_code`
-- and `next_steps` of a completed run stays: SQLite's functions read the first one, other readers the last. Where members
-- are repeated and the run is not blocked, no `reason_code` and `next_steps` is verifyd's.
-- `verifyd migrate --enforce` runs this file again.
DROP TRIGGER IF EXISTS verifyd_guard_completed_run;

-- The report that verifyd has recorded as the latest one of its connection, or else the first one: completions wrote into
-- the first of several members, and the guard has kept that one. A row that a constraint would refuse then stays.
UPDATE OR IGNORE operation_runs AS r SET context = (
    SELECT json_group_object(m.key, CASE WHEN m.type IN ('object', 'array') THEN json(m.value)
        WHEN m.type IN ('true', 'false') THEN json(m.type) ELSE m.value END)
    FROM (
        SELECT key, type, value, row_number() OVER (PARTITION BY key ORDER BY
            CASE WHEN key = 'verification_report' AND type = 'object'
                THEN coalesce(json_extract(value, '$.fingerprint') = d.fingerprint, 0) ELSE 0 END DESC, id) AS place
        FROM json_each(r.context)
    ) m
    WHERE m.key NOT IN ('verification_report', 'reason_code', 'next_steps')
       OR m.place = 1 AND (m.key = 'verification_report' OR r.outcome = 'blocked'))
FROM (
    SELECT o.id AS run, l.fingerprint
    FROM operation_runs o LEFT JOIN verifyd_latest_reports l ON l.operation_run_id = o.id
    WHERE o.type = 'provider.connection.check' AND o.status = 'completed'
      AND CASE WHEN json_valid(o.context) THEN json_type(o.context) END = 'object'
      AND (SELECT count(*) > count(DISTINCT key) FROM json_each(o.context)
           WHERE key IN ('verification_report', 'reason_code', 'next_steps'))
) d
WHERE r.id = d.run;

-- As in migration 15. A context that repeats one of these members is not taken at all. A library before 3.45 finds a name
-- with `\u` only in the rows of `json_each`.
CREATE TRIGGER verifyd_guard_completed_run BEFORE UPDATE ON operation_runs
WHEN old.type = 'provider.connection.check' AND old.status = 'completed'
    AND (new.id, new.type, new.tenant_id, new.workspace_id)
        IS (old.id, old.type, old.tenant_id, old.workspace_id)
    AND (
        (new.status, new.outcome, new.started_at, new.completed_at, new.failure_summary) IS NOT
        (old.status, old.outcome, old.started_at, old.completed_at, old.failure_summary)
        OR json_type(new.context) IS NOT 'object' AND json_type(old.context) = 'object'
        OR new.context IS NOT old.context AND (SELECT count(*) FROM json_each(new.context)
            WHERE key IN ('verification_report', 'reason_code', 'next_steps')) <>
            (json_type(new.context, '$.verification_report') IS NOT NULL)
            + (json_type(new.context, '$.reason_code') IS NOT NULL)
            + (json_type(new.context, '$.next_steps') IS NOT NULL)
        -- With the types: a text may look like the object or array whose place it takes.
        OR json_type(old.context, '$.verification_report') = 'object' AND
            (json_type(new.context, '$.verification_report'),
             json_extract(new.context, '$.verification_report')) IS NOT
            ('object', json_extract(old.context, '$.verification_report'))
        OR old.outcome = 'blocked' AND
            (json_type(new.context, '$.reason_code'), json_extract(new.context, '$.reason_code'),
             json_type(new.context, '$.next_steps'), json_extract(new.context, '$.next_steps')) IS NOT
            (json_type(old.context, '$.reason_code'), json_extract(old.context, '$.reason_code'),
             json_type(old.context, '$.next_steps'), json_extract(old.context, '$.next_steps'))
    )
BEGIN
    UPDATE operation_runs SET context = CASE
        WHEN json_type(new.context) IS NOT 'object' THEN old.context
        WHEN (SELECT count(*) FROM json_each(new.context)
              WHERE key IN ('verification_report', 'reason_code', 'next_steps')) <>
            (json_type(new.context, '$.verification_report') IS NOT NULL)
            + (json_type(new.context, '$.reason_code') IS NOT NULL)
            + (json_type(new.context, '$.next_steps') IS NOT NULL) THEN old.context
        WHEN old.outcome = 'blocked' THEN json_set(new.context,
            '$.verification_report', json_extract(old.context, '$.verification_report'),
            '$.reason_code', json_extract(old.context, '$.reason_code'),
            '$.next_steps', json_extract(old.context, '$.next_steps'))
        WHEN json_type(old.context, '$.verification_report') = 'object' THEN json_set(new.context,
            '$.verification_report', json_extract(old.context, '$.verification_report'))
        ELSE new.context
    END WHERE id = old.id;
    SELECT RAISE(IGNORE);
END;
