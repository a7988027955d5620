-- How acknowledgements carry on to later runs of the connection: as long as the check's status and
-- reason code stay the same. The completing transaction of the first run in which they do not ends
-- it for good: what comes back later has to be acknowledged anew.
CREATE TABLE verifyd_carried_acknowledgements (
    acknowledgement_id INTEGER NOT NULL PRIMARY KEY,
    connection_id      INTEGER NOT NULL,
    check_key          TEXT NOT NULL,
    status             TEXT NOT NULL,
    reason_code        TEXT,
    from_run_id        INTEGER NOT NULL,
    -- When the run was completed that it was made on.
    from_completed_at  TEXT NOT NULL,
    -- The run in which the check was first found otherwise, and when that was completed.
    lapsed_run_id      INTEGER,
    lapsed_at          TEXT
) STRICT;
CREATE INDEX verifyd_carried_acknowledgements_open
    ON verifyd_carried_acknowledgements (connection_id) WHERE lapsed_at IS NULL;
CREATE INDEX verifyd_carried_acknowledgements_connection
    ON verifyd_carried_acknowledgements (connection_id, acknowledgement_id);
CREATE INDEX verifyd_carried_acknowledgements_run
    ON verifyd_carried_acknowledgements (from_run_id);

-- Whether an acknowledgement of the connection may still carry on. The completing transaction reads
-- it from the row that it writes anyway, so that a run without acknowledgements costs nothing more.
ALTER TABLE verifyd_latest_reports ADD COLUMN acknowledged INTEGER NOT NULL DEFAULT 0 CHECK (acknowledged IN (0, 1));
