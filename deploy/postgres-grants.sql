-- Least privilege in PostgreSQL (15 and later). Apply it as a superuser, or as a role that owns the
-- database and the application's tables, may create roles, and is a member of verifyd_migrate, which owns
-- what `verifyd migrate` makes (GRANT verifyd_migrate TO owner; and afterwards REVOKE verifyd_migrate FROM
-- owner;), with the search_path that verifyd uses:
--
--   psql -v ON_ERROR_STOP=1 -f deploy/postgres-grants.sql "$DATABASE_URL_OF_THE_OWNER"
--
-- before the first `verifyd migrate`, and again after each `verifyd migrate` and whenever the
-- application's tables have been made anew: it grants what is there, and may be repeated at will.
--
-- The roles may log in and have no password: give them one (ALTER ROLE … PASSWORD …), a certificate,
-- or whatever pg_hba.conf asks for. They may open any number of connections: bound that of the producer
-- (ALTER ROLE verifyd_producer CONNECTION LIMIT …). What each of them is for:
--
--   verifyd_migrate   `verifyd migrate`: owns the schema verifyd, and the application's tables where
--                     verifyd made them. `verifyd migrate --enforce` on a table of another application
--                     is the right of that table's owner. Lend it for as long as the command takes:
--                     GRANT owner TO verifyd_migrate; and then REVOKE owner FROM verifyd_migrate;
--   verifyd_serve     `verifyd serve`, `doctor` and `support-bundle`: reads connections and credentials, moves
--                     runs, writes what is granted; for the API adds runs and acknowledgements, for people
--                     who sign in with OpenID Connect tokens; can add no connection, and drop nothing
--   verifyd_operator  the other commands: connections, enqueue, runs, acknowledgements, tokens
--   verifyd_prune     `verifyd prune`: the only one that deletes runs; sees no connection and no
--                     credential
--   verifyd_producer  another application that records runs by INSERT and reads how they ended; sees
--                     no credential
--
-- tests/system/daemon/privileges.rs runs all of verifyd under exactly these roles.

DO $roles$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['verifyd_migrate', 'verifyd_serve', 'verifyd_operator', 'verifyd_prune', 'verifyd_producer']
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                -- Roles belong to the whole server: somebody applies this to another database.
                NULL;
            END;
        END IF;
    END LOOP;
END
$roles$;

-- Rights on a table are granted by its owner, or by a member of that role.
DO $owners$
DECLARE
    other name;
BEGIN
    SELECT r.rolname INTO other FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
    WHERE NOT pg_has_role(r.oid, 'USAGE') AND (c.relnamespace = to_regnamespace('verifyd') OR c.oid IN (
        to_regclass('operation_runs'), to_regclass('provider_connections'), to_regclass('provider_credentials'),
        to_regclass('tenant_permissions'), to_regclass('tenants'), to_regclass('tenant_onboarding_sessions'),
        to_regclass('verification_check_acknowledgements')));
    IF FOUND THEN
        RAISE EXCEPTION 'tables belong to the role %, of which the role % is no member', other, current_user
            USING HINT = format('GRANT %I TO %I; apply this file again; and then REVOKE %1$I FROM %2$I;', other, current_user);
    END IF;
END
$owners$;

-- The database and its schemas. TEMPORARY is granted to everyone unless it is taken away.
DO $database$
DECLARE
    home text := current_schema();
BEGIN
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO verifyd_migrate, verifyd_serve, verifyd_operator, verifyd_prune, verifyd_producer', current_database());
    -- `migrate` makes the schema verifyd, and the application's tables where they are missing.
    EXECUTE format('GRANT CREATE ON DATABASE %I TO verifyd_migrate', current_database());
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO verifyd_migrate', home);
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', home);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO verifyd_serve, verifyd_operator, verifyd_prune, verifyd_producer', home);
END
$database$;

-- verifyd's own state.
DO $own$
DECLARE
    state text;
BEGIN
    IF to_regnamespace('verifyd') IS NULL THEN
        RETURN;
    END IF;
    GRANT USAGE ON SCHEMA verifyd TO verifyd_serve, verifyd_operator, verifyd_prune;
    -- Which migrations were applied, and what verifyd made: only `migrate` writes these.
    GRANT SELECT ON ALL TABLES IN SCHEMA verifyd TO verifyd_serve, verifyd_operator;
    -- `doctor` reads which ids come next.
    GRANT SELECT ON ALL SEQUENCES IN SCHEMA verifyd TO verifyd_serve;
    FOREACH state IN ARRAY ARRAY['run_attempts', 'workers', 'run_deliveries', 'latest_reports', 'connection_facts',
                               'tenant_inventory', 'carried_acknowledgements', 'page_sessions', 'idempotency_keys',
                               'provider_budgets']
    LOOP
        IF to_regclass('verifyd.' || state) IS NOT NULL THEN
            EXECUTE format('GRANT INSERT, UPDATE, DELETE ON verifyd.%I TO verifyd_serve', state);
        END IF;
    END LOOP;
    -- Locking the row takes the right to change it. A sweep adds it where it is missing.
    IF to_regclass('verifyd.sweep_lock') IS NOT NULL THEN
        GRANT INSERT, UPDATE ON verifyd.sweep_lock TO verifyd_serve;
    END IF;
    -- What goes with a run, and the reports that stay.
    IF to_regclass('verifyd.run_attempts') IS NOT NULL THEN
        GRANT SELECT, DELETE ON verifyd.run_attempts, verifyd.run_deliveries TO verifyd_prune;
        GRANT SELECT ON verifyd.latest_reports TO verifyd_prune;
    END IF;
    -- What is known of a credential that an operator replaces.
    IF to_regclass('verifyd.connection_facts') IS NOT NULL THEN
        GRANT UPDATE ON verifyd.connection_facts TO verifyd_operator;
    END IF;
    -- Webhooks: `serve` records and sends, only an operator adds an endpoint.
    IF to_regclass('verifyd.webhook_endpoints') IS NOT NULL THEN
        GRANT UPDATE (enabled, disabled_reason, failures) ON verifyd.webhook_endpoints TO verifyd_serve;
        -- The circuit of an endpoint, once its columns are there.
        IF EXISTS (SELECT FROM pg_attribute WHERE attname = 'circuit_probe_at'
                   AND attrelid = to_regclass('verifyd.webhook_endpoints')) THEN
            GRANT UPDATE (circuit_pauses, circuit_opened_at, circuit_probe_at)
                ON verifyd.webhook_endpoints TO verifyd_serve;
        END IF;
        GRANT INSERT, UPDATE, DELETE ON verifyd.webhook_deliveries, verifyd.webhook_attempts
            TO verifyd_serve;
        GRANT INSERT, UPDATE, DELETE ON verifyd.webhook_endpoints TO verifyd_operator;
        GRANT UPDATE, DELETE ON verifyd.webhook_deliveries TO verifyd_operator;
    END IF;
    -- `enqueue` notes that it has sent the hint, also where an earlier run of the same id left a row.
    IF to_regclass('verifyd.run_deliveries') IS NOT NULL THEN
        GRANT INSERT, UPDATE ON verifyd.run_deliveries TO verifyd_operator;
    END IF;
    -- `tokens` makes and revokes them; the daemon notes when one was last used, and records each person who signs in
    -- with OpenID Connect (http.oidc) as a token. It cannot take the text of one over or lift a revocation.
    IF to_regclass('verifyd.api_tokens') IS NOT NULL THEN
        GRANT INSERT (name, token_hash, scopes, workspace_id, tenant_id, expires_at),
              UPDATE (name, scopes, workspace_id, tenant_id, expires_at, last_used_at)
            ON verifyd.api_tokens TO verifyd_serve;
        GRANT INSERT, UPDATE ON verifyd.api_tokens TO verifyd_operator;
        -- Revoking a token ends its sessions.
        GRANT DELETE ON verifyd.page_sessions TO verifyd_operator;
    END IF;
    -- `acknowledge` notes what is to carry on, and that there is something of the kind.
    IF to_regclass('verifyd.carried_acknowledgements') IS NOT NULL THEN
        GRANT INSERT ON verifyd.carried_acknowledgements TO verifyd_operator;
        GRANT SELECT, DELETE ON verifyd.carried_acknowledgements TO verifyd_prune;
        GRANT UPDATE (acknowledged) ON verifyd.latest_reports TO verifyd_operator;
    END IF;
    -- Who acknowledged and withdrew is added and never changed.
    IF to_regclass('verifyd.acknowledgement_actors') IS NOT NULL THEN
        GRANT INSERT ON verifyd.acknowledgement_actors TO verifyd_serve, verifyd_operator;
        GRANT SELECT, DELETE ON verifyd.acknowledgement_actors TO verifyd_prune;
    END IF;
    -- Entries of the audit trail are added and never changed; `prune` deletes what is old. Nobody chooses the id or the
    -- time of one. DELETE includes every lock of the table: PostgreSQL has no lesser right.
    IF to_regclass('verifyd.audit_entries') IS NOT NULL THEN
        GRANT INSERT (action, object, object_id, workspace_id, tenant_id, surface, token_id, actor, address,
                      request_id, before, after)
            ON verifyd.audit_entries TO verifyd_serve, verifyd_operator;
        GRANT SELECT (id, at), DELETE ON verifyd.audit_entries TO verifyd_prune;
    END IF;
END
$own$;

-- The application's tables.
DO $application$
BEGIN
    IF to_regclass('operation_runs') IS NOT NULL THEN
        GRANT SELECT ON operation_runs TO verifyd_serve, verifyd_operator, verifyd_producer;
        GRANT DELETE ON operation_runs TO verifyd_prune;
    END IF;
    IF to_regclass('provider_connections') IS NOT NULL THEN
        GRANT SELECT ON provider_connections TO verifyd_serve, verifyd_operator;
        GRANT INSERT, UPDATE ON provider_connections TO verifyd_operator;
    END IF;
    IF to_regclass('provider_credentials') IS NOT NULL THEN
        GRANT SELECT ON provider_credentials TO verifyd_serve, verifyd_operator;
        GRANT INSERT, UPDATE ON provider_credentials TO verifyd_operator;
    END IF;
    IF to_regclass('tenant_permissions') IS NOT NULL THEN
        GRANT SELECT, INSERT, UPDATE ON tenant_permissions TO verifyd_serve;
        GRANT SELECT ON tenant_permissions TO verifyd_operator;
    END IF;
    IF to_regclass('tenants') IS NOT NULL THEN
        GRANT SELECT ON tenants TO verifyd_serve, verifyd_operator;
        -- Used only where verifyd made the table: `connections add` records the tenant.
        IF EXISTS (SELECT FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
                   WHERE c.oid = to_regclass('tenants') AND r.rolname = 'verifyd_migrate') THEN
            GRANT INSERT ON tenants TO verifyd_operator;
        END IF;
    END IF;
    IF to_regclass('tenant_onboarding_sessions') IS NOT NULL THEN
        GRANT SELECT ON tenant_onboarding_sessions TO verifyd_serve, verifyd_operator;
    END IF;
    IF to_regclass('verification_check_acknowledgements') IS NOT NULL THEN
        GRANT SELECT ON verification_check_acknowledgements TO verifyd_serve, verifyd_operator;
        GRANT DELETE ON verification_check_acknowledgements TO verifyd_prune;
    END IF;
END
$application$;

-- Columns of these tables, as far as they are there: `migrate` and `doctor` list those that are missing.
DO $columns$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT w.name, w.action, w.roles, string_agg(quote_ident(a.attname), ', ') AS columns
        FROM (VALUES
            -- Whose run it is, of which type and when it was recorded is never changed.
            ('operation_runs', 'UPDATE', '{status, outcome, context, failure_summary, started_at, completed_at}',
                'verifyd_serve'),
            ('operation_runs', 'INSERT', '{workspace_id, tenant_id, type, status, context, created_at}',
                'verifyd_serve, verifyd_operator, verifyd_producer'),
            -- What has to be empty in a new run: verifyd writes NULL to all of it where a default would fill one.
            ('operation_runs', 'INSERT', CASE WHEN EXISTS (
                SELECT FROM pg_attribute WHERE attrelid = to_regclass('operation_runs') AND atthasdef
                AND attname IN ('outcome', 'started_at', 'completed_at'))
                THEN '{outcome, started_at, completed_at}' END, 'verifyd_serve, verifyd_operator'),
            ('operation_runs', 'SELECT', '{id, type, status, completed_at}', 'verifyd_prune'),
            -- Locking a row takes the right to change some column of it: the one whose change verifyd's guards undo.
            ('operation_runs', 'UPDATE', '{created_at}', 'verifyd_prune'),
            ('tenant_onboarding_sessions', 'SELECT', '{state}', 'verifyd_prune'),
            -- A check that is started for a session becomes what the session points to.
            ('tenant_onboarding_sessions', 'UPDATE', '{state}', 'verifyd_serve, verifyd_operator'),
            -- Nothing that was said is ever changed or deleted, only withdrawn.
            ('verification_check_acknowledgements', 'SELECT', '{id, operation_run_id, withdrawn_at, expires_at}',
                'verifyd_prune'),
            ('verification_check_acknowledgements', 'INSERT', '{operation_run_id, check_key, reason_code, reason,
                acknowledged_by, acknowledged_at, expires_at}', 'verifyd_serve, verifyd_operator'),
            ('verification_check_acknowledgements', 'UPDATE', '{withdrawn_at, withdrawn_by}',
                'verifyd_serve, verifyd_operator')) AS w(name, action, columns, roles)
        JOIN pg_attribute a ON a.attrelid = to_regclass(w.name) AND a.attname = ANY (w.columns::name[])
        GROUP BY 1, 2, 3
    LOOP
        EXECUTE format('GRANT %s (%s) ON %I TO %s', granted.action, granted.columns, granted.name, granted.roles);
    END LOOP;
END
$columns$;

-- The sequences of these tables, for those who add rows. `doctor` reads which ids come next.
DO $sequences$
DECLARE
    used record;
BEGIN
    FOR used IN
        SELECT DISTINCT t.users, format('%I.%I', n.nspname, s.relname) AS sequence
        FROM (VALUES
            ('operation_runs', 'verifyd_serve, verifyd_operator, verifyd_producer'),
            ('provider_connections', 'verifyd_operator'),
            ('provider_credentials', 'verifyd_operator'),
            ('tenant_permissions', 'verifyd_serve'),
            ('verification_check_acknowledgements', 'verifyd_serve, verifyd_operator')) AS t(name, users)
        -- That of an identity column, and those that a default uses.
        CROSS JOIN LATERAL (
            SELECT d.objid AS oid FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
              AND d.refobjid = to_regclass(t.name) AND d.deptype = 'i'
            UNION
            SELECT d.refobjid FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid
            WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
              AND f.adrelid = to_regclass(t.name)) AS u
        JOIN pg_class s ON s.oid = u.oid AND s.relkind = 'S'
        JOIN pg_namespace n ON n.oid = s.relnamespace
    LOOP
        EXECUTE format('GRANT USAGE ON SEQUENCE %s TO %s', used.sequence, used.users);
        EXECUTE format('GRANT SELECT ON SEQUENCE %s TO verifyd_serve', used.sequence);
    END LOOP;
END
$sequences$;
