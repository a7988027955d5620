-- Who acknowledged and who withdrew, by what verifyd knows: the token, or the user of the command line.
-- `acknowledged_by` is what a person says. The acknowledgements themselves may be another
-- application's table, so this is one of verifyd's own.
CREATE TABLE verifyd_acknowledgement_actors (
    acknowledgement_id INTEGER NOT NULL,
    operation_run_id   INTEGER NOT NULL,
    action             TEXT NOT NULL CHECK (action IN ('acknowledged', 'withdrawn')),
    -- The time in the acknowledgement's row: what was noted for an earlier row of the same id does
    -- not count.
    at                 TEXT NOT NULL,
    surface            TEXT NOT NULL CHECK (surface IN ('api', 'pages', 'cli')),
    token_id           INTEGER,
    name               TEXT NOT NULL,
    PRIMARY KEY (acknowledgement_id, action, at)
) STRICT;
CREATE INDEX verifyd_acknowledgement_actors_run ON verifyd_acknowledgement_actors (operation_run_id);
