-- The guards of the audit trail, with one of its ids. `verifyd migrate --enforce` runs this file again.

-- INSERT OR REPLACE deletes the row of the same id, and runs no trigger for it.
DROP TRIGGER IF EXISTS verifyd_guard_audit_entries_insert;
CREATE TRIGGER verifyd_guard_audit_entries_insert BEFORE INSERT ON verifyd_audit_entries
WHEN EXISTS (SELECT 1 FROM verifyd_audit_entries WHERE id = new.id)
BEGIN
    SELECT RAISE(ABORT, 'entries of the audit trail never change');
END;

-- Behind the largest id there is none. One INSERT, also after a change of sqlite_sequence, takes at most 2^32 of 2^63.
DROP TRIGGER IF EXISTS verifyd_guard_audit_entries_id;
CREATE TRIGGER verifyd_guard_audit_entries_id AFTER INSERT ON verifyd_audit_entries
WHEN new.id > (1 << 32) + coalesce((SELECT max(id) FROM verifyd_audit_entries WHERE id < new.id), 0)
BEGIN
    SELECT RAISE(ABORT, 'the id is far behind those of all entries of the audit trail');
END;

DROP TRIGGER IF EXISTS verifyd_guard_audit_entries_update;
CREATE TRIGGER verifyd_guard_audit_entries_update BEFORE UPDATE ON verifyd_audit_entries
BEGIN
    SELECT RAISE(ABORT, 'entries of the audit trail never change');
END;

DROP TRIGGER IF EXISTS verifyd_guard_audit_entries_delete;
CREATE TRIGGER verifyd_guard_audit_entries_delete BEFORE DELETE ON verifyd_audit_entries
WHEN old.at >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-30 days')
BEGIN
    SELECT RAISE(ABORT, 'entries of the audit trail are kept for at least 30 days');
END;
