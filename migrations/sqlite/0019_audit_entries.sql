-- The audit trail: who changed what, and from where. An entry is written in the transaction of the change. It is never
-- changed; `verifyd prune --audit-older-than` deletes what is old.
CREATE TABLE verifyd_audit_entries (
    -- None below 1: before an id is chosen, a trigger sees -1.
    id           INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id > 0),
    at           TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    -- Names of a closed list, which grows: an older build reads the names of a newer one.
    action       TEXT NOT NULL,
    object       TEXT NOT NULL,
    object_id    INTEGER,
    -- Whose the object is; both null: it belongs to no workspace.
    workspace_id INTEGER,
    tenant_id    INTEGER,
    surface      TEXT NOT NULL,
    token_id     INTEGER,
    -- The token's name at that time; on the command line the user of the operating system.
    actor        TEXT NOT NULL,
    -- Of the peer: behind a proxy the proxy's.
    address      TEXT,
    request_id   TEXT,
    "before"     TEXT,
    "after"      TEXT,
    -- Nobody could list a larger one, nor delete it for 30 days.
    CHECK (
        length(action) <= 100 AND length(object) <= 100 AND length(surface) <= 100
        AND length(actor) <= 1000 AND length(address) <= 1000 AND length(request_id) <= 1000
        AND length("before") <= 65536 AND length("after") <= 65536
    )
) STRICT;
CREATE INDEX verifyd_audit_entries_object ON verifyd_audit_entries (object, object_id, id);
CREATE INDEX verifyd_audit_entries_workspace ON verifyd_audit_entries (workspace_id, id);

-- INSERT OR REPLACE deletes the row of the same id, and runs no trigger for it.
CREATE TRIGGER verifyd_guard_audit_entries_insert BEFORE INSERT ON verifyd_audit_entries
WHEN EXISTS (SELECT 1 FROM verifyd_audit_entries WHERE id = new.id)
BEGIN
    SELECT RAISE(ABORT, 'entries of the audit trail never change');
END;

CREATE TRIGGER verifyd_guard_audit_entries_update BEFORE UPDATE ON verifyd_audit_entries
BEGIN
    SELECT RAISE(ABORT, 'entries of the audit trail never change');
END;

CREATE TRIGGER verifyd_guard_audit_entries_delete BEFORE DELETE ON verifyd_audit_entries
WHEN old.at >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-30 days')
BEGIN
    SELECT RAISE(ABORT, 'entries of the audit trail are kept for at least 30 days');
END;
