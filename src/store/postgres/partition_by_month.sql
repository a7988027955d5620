-- Makes operation_runs, a plain table that verifyd made and this transaction has locked, the first partition of a new
-- table of its name: operation_runs_earlier, for everything before next month (UTC). No row is written; one index is
-- built, and the rows are read once. verifyd's triggers are taken off before, and put on afterwards.
DO $partition$
DECLARE
    plain    oid := to_regclass('operation_runs');
    earlier  text;
    runs     text;
    sequence text;
    numbers  text;
    owner    oid;
    bound    text := to_char(now() AT TIME ZONE 'UTC' + interval '1 month', 'YYYY-MM') || '-01 00:00:00+00';
    entry    record;
BEGIN
    SELECT format('%I.operation_runs', n.nspname), format('%I.operation_runs_earlier', n.nspname), c.relowner
    INTO STRICT runs, earlier, owner
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = plain;
    SELECT k.conname INTO STRICT entry FROM pg_constraint k WHERE k.conrelid = plain AND k.contype = 'p';
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %2$I, ADD CONSTRAINT %2$I PRIMARY KEY (id, created_at)', runs, entry.conname);
    EXECUTE format('ALTER TABLE %s RENAME TO operation_runs_earlier', runs);
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL) PARTITION BY RANGE (created_at)', runs, earlier);

    -- Ids go on where they were. ALTER SEQUENCE changes nothing; its lock holds up a nextval() by name, which
    -- the lock of the table does not.
    sequence := pg_get_serial_sequence(earlier, 'id');
    EXECUTE format('ALTER SEQUENCE %s AS bigint', sequence);
    numbers := pg_get_serial_sequence(runs, 'id');
    EXECUTE format('SELECT setval(%L, last_value, is_called) FROM %s', numbers, sequence);

    -- Whoever may use the table and its sequence goes on to.
    FOR entry IN
        SELECT a.privilege_type || coalesce(' (' || quote_ident(t.column_name) || ')', '') AS name, t.object,
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee,
            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS option
        FROM (
            SELECT c.relacl, NULL::name, runs FROM pg_class c WHERE c.oid = plain
            UNION ALL SELECT c.attacl, c.attname, runs FROM pg_attribute c WHERE c.attrelid = plain AND c.attnum > 0
            UNION ALL SELECT c.relacl, NULL, 'SEQUENCE ' || numbers FROM pg_class c WHERE c.oid = sequence::regclass
        ) AS t (acl, column_name, object) CROSS JOIN LATERAL aclexplode(t.acl) AS a
        WHERE a.grantee <> owner
    LOOP
        EXECUTE format('GRANT %s ON %s TO %s%s', entry.name, entry.object, entry.grantee, entry.option);
    END LOOP;
    EXECUTE format('ALTER TABLE %s OWNER TO %I', runs, pg_get_userbyid(owner));

    -- Ids come from the new table alone; before PostgreSQL 17 no partition has an identity column.
    EXECUTE format('ALTER TABLE %s ALTER COLUMN id DROP IDENTITY', earlier);
    EXECUTE format('ALTER SEQUENCE %s RENAME TO %I', numbers, (parse_ident(sequence))[2]);
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (MINVALUE) TO (%L)', runs, earlier, bound);

    -- The new table's indexes get the names that migrations know.
    FOR entry IN
        SELECT c.relname AS name, i.inhrelid::regclass AS child, i.inhparent::regclass AS parent, p.relname AS parent_name
        FROM pg_index x JOIN pg_inherits i ON i.inhrelid = x.indexrelid
        JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
        WHERE x.indrelid = plain
    LOOP
        EXECUTE format('ALTER INDEX %s RENAME TO %I', entry.child, CASE WHEN starts_with(entry.name, 'operation_runs')
            THEN 'operation_runs_earlier' || substr(entry.name, length('operation_runs') + 1)
            ELSE 'earlier_' || entry.name END);
        IF entry.parent_name <> entry.name THEN
            EXECUTE format('ALTER INDEX %s RENAME TO %I', entry.parent, entry.name);
        END IF;
    END LOOP;

    -- What no partition takes: times that are none, and rows of a month that has no partition yet.
    EXECUTE format('CREATE TABLE %s_default PARTITION OF %s DEFAULT', runs, runs);
    EXECUTE format('ALTER TABLE %s_default OWNER TO %I', runs, pg_get_userbyid(owner));
END
$partition$;
