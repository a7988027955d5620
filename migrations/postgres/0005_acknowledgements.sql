-- How acknowledgements carry on to later runs of the connection: as long as the check's status and
-- reason code stay the same. The completing transaction of the first run in which they do not ends
-- it for good: what comes back later has to be acknowledged anew.
CREATE TABLE verifyd.carried_acknowledgements (
    acknowledgement_id bigint PRIMARY KEY,
    connection_id      bigint NOT NULL,
    check_key          text NOT NULL,
    status             text NOT NULL,
    reason_code        text,
    from_run_id        bigint NOT NULL,
    -- When the run was completed that it was made on.
    from_completed_at  timestamptz NOT NULL,
    -- The run in which the check was first found otherwise, and when that was completed.
    lapsed_run_id      bigint,
    lapsed_at          timestamptz
);
CREATE INDEX carried_acknowledgements_open
    ON verifyd.carried_acknowledgements (connection_id) WHERE lapsed_at IS NULL;
CREATE INDEX carried_acknowledgements_connection
    ON verifyd.carried_acknowledgements (connection_id, acknowledgement_id);
CREATE INDEX carried_acknowledgements_run
    ON verifyd.carried_acknowledgements (from_run_id);

-- Whether an acknowledgement of the connection may still carry on. The completing transaction reads
-- it from the row that it writes anyway, so that a run without acknowledgements costs nothing more.
ALTER TABLE verifyd.latest_reports ADD COLUMN acknowledged boolean NOT NULL DEFAULT false;
