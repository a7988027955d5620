-- A text may give a member more than once, also with `\u` in its name. Of `verification_report`, `reason_code` and
-- `next_steps` of a completed run only one stays: SQLite's functions read the first one, other readers the last. For
-- these functions a name ends at its first `\u0000`; hence `printf`, which ends it there, too.
DROP TRIGGER IF EXISTS verifyd_guard_completed_run;

-- The report that verifyd has recorded as the latest one of its connection, or else the first one: completions wrote
-- into the first of several members, and the guard has kept that one. Of a run that is not blocked `reason_code` and
-- `next_steps` are not verifyd's, and go only where they are repeated. As in a completion, a member is removed 17
-- times; of a context that gives it more often, what verifyd reads stays. A row that a constraint would refuse stays.
UPDATE OR IGNORE operation_runs AS r SET context = (
    SELECT CASE
        WHEN m.report IS NULL THEN m.own
        WHEN r.outcome = 'blocked' THEN json_insert(m.own,
            '$.verification_report', json(m.report),
            '$.reason_code', json(r.context -> '$.reason_code'),
            '$.next_steps', json(r.context -> '$.next_steps'))
        ELSE json_insert(m.own, '$.verification_report', json(m.report))
    END
    FROM (
        SELECT
            CASE
                WHEN coalesce(json_type(k.own, d.report), json_type(k.own, d.reason),
                    json_type(k.own, d.steps)) IS NULL THEN k.own
                ELSE (
                    SELECT json_insert(json_group_object(n.name, r.context -> n.name),
                        '$.producer_context_dropped', json('true'))
                    FROM (SELECT DISTINCT key AS name FROM json_each(r.context)
                          WHERE key IN ('provider', 'module', 'provider_connection_id', 'target_scope')
                            AND type <> 'null') n)
            END AS own,
            coalesce((
                SELECT value FROM json_each(r.context)
                WHERE CASE WHEN printf('%s', key) = 'verification_report' AND type = 'object'
                    THEN json_extract(value, '$.fingerprint') END = d.fingerprint
                ORDER BY id LIMIT 1), r.context -> '$.verification_report') AS report
        FROM (
            SELECT json_remove(r.context,
                d.report, d.reason, d.steps, d.report, d.reason, d.steps, d.report, d.reason, d.steps,
                d.report, d.reason, d.steps, d.report, d.reason, d.steps, d.report, d.reason, d.steps,
                d.report, d.reason, d.steps, d.report, d.reason, d.steps, d.report, d.reason, d.steps,
                d.report, d.reason, d.steps, d.report, d.reason, d.steps, d.report, d.reason, d.steps,
                d.report, d.reason, d.steps, d.report, d.reason, d.steps, d.report, d.reason, d.steps,
                d.report, d.reason, d.steps, d.report, d.reason, d.steps) AS own
        ) k
    ) m)
FROM (
    SELECT o.id AS run, l.fingerprint, '$.verification_report' AS report,
        CASE WHEN o.outcome = 'blocked'
            OR (SELECT count(*) > 1 FROM json_each(o.context) WHERE printf('%s', key) = 'reason_code')
            THEN '$.reason_code' ELSE '$.verification_report' END AS reason,
        CASE WHEN o.outcome = 'blocked'
            OR (SELECT count(*) > 1 FROM json_each(o.context) WHERE printf('%s', key) = 'next_steps')
            THEN '$.next_steps' ELSE '$.verification_report' END AS steps
    FROM operation_runs o LEFT JOIN verifyd_latest_reports l ON l.operation_run_id = o.id
    WHERE o.type = 'provider.connection.check' AND o.status = 'completed'
      AND CASE WHEN json_valid(o.context) THEN json_type(o.context) END = 'object'
      AND (SELECT count(*) + count(nullif(key, printf('%s', key))) > count(DISTINCT printf('%s', key))
           FROM json_each(o.context)
           WHERE printf('%s', key) IN ('verification_report', 'reason_code', 'next_steps'))
) d
WHERE r.id = d.run;

-- `verifyd migrate --enforce` runs what follows again.

-- As in migration 15. A context that repeats one of these members, or continues its name behind a `\u0000`, is not
-- taken at all. A library before 3.45 finds a name with `\u` only in the rows of `json_each`.
DROP TRIGGER IF EXISTS verifyd_guard_completed_run;
CREATE TRIGGER verifyd_guard_completed_run BEFORE UPDATE ON operation_runs
WHEN old.type = 'provider.connection.check' AND old.status = 'completed'
    AND (new.id, new.type, new.tenant_id, new.workspace_id)
        IS (old.id, old.type, old.tenant_id, old.workspace_id)
    AND (
        (new.status, new.outcome, new.started_at, new.completed_at, new.failure_summary) IS NOT
        (old.status, old.outcome, old.started_at, old.completed_at, old.failure_summary)
        OR json_type(new.context) IS NOT 'object' AND json_type(old.context) = 'object'
        OR new.context IS NOT old.context AND (
            SELECT count(*) + count(nullif(key, printf('%s', key))) FROM json_each(new.context)
            WHERE printf('%s', key) IN ('verification_report', 'reason_code', 'next_steps')) <>
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
        WHEN (
            SELECT count(*) + count(nullif(key, printf('%s', key))) FROM json_each(new.context)
            WHERE printf('%s', key) IN ('verification_report', 'reason_code', 'next_steps')) <>
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
