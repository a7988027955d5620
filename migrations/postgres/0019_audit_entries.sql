-- The audit trail: who changed what, and from where. An entry is written in the transaction of the change. It is never
-- changed; `verifyd prune --audit-older-than` deletes what is old.
CREATE TABLE verifyd.audit_entries (
    -- Whoever adds entries chooses neither their ids nor their times: the roles have no INSERT on these two columns.
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT now(),
    -- Names of a closed list, which grows: an older build reads the names of a newer one.
    action       text NOT NULL,
    object       text NOT NULL,
    object_id    bigint,
    -- Whose the object is; both null: it belongs to no workspace.
    workspace_id bigint,
    tenant_id    bigint,
    surface      text NOT NULL,
    token_id     bigint,
    -- The token's name at that time; on the command line the user of the operating system.
    actor        text NOT NULL,
    -- Of the peer: behind a proxy the proxy's.
    address      text,
    request_id   text,
    before       jsonb,
    after        jsonb,
    -- Nobody could list a larger one, nor delete it for 30 days.
    CONSTRAINT audit_entries_size CHECK (
        octet_length(action) <= 100 AND octet_length(object) <= 100 AND octet_length(surface) <= 100
        AND octet_length(actor) <= 1000 AND octet_length(address) <= 1000 AND octet_length(request_id) <= 1000
        AND octet_length(before::text) <= 65536 AND octet_length(after::text) <= 65536
    )
);
CREATE INDEX audit_entries_object ON verifyd.audit_entries (object, object_id, id);
CREATE INDEX audit_entries_workspace ON verifyd.audit_entries (workspace_id, id);

CREATE FUNCTION verifyd.guard_audit_entries() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $guard$
BEGIN
    IF tg_op = 'DELETE' THEN
        IF old.at < now() - interval '30 days' THEN
            RETURN old;
        END IF;
        RAISE EXCEPTION 'entries of the audit trail are kept for at least 30 days'
            USING ERRCODE = 'check_violation', CONSTRAINT = tg_name, TABLE = tg_table_name,
                  SCHEMA = tg_table_schema;
    END IF;
    RAISE EXCEPTION 'entries of the audit trail never change'
        USING ERRCODE = 'check_violation', CONSTRAINT = tg_name, TABLE = tg_table_name,
              SCHEMA = tg_table_schema;
END
$guard$;

CREATE TRIGGER verifyd_guard_audit_entries BEFORE UPDATE OR DELETE ON verifyd.audit_entries
FOR EACH ROW EXECUTE FUNCTION verifyd.guard_audit_entries();
CREATE TRIGGER verifyd_guard_audit_trail BEFORE TRUNCATE ON verifyd.audit_entries
FOR EACH STATEMENT EXECUTE FUNCTION verifyd.guard_audit_entries();
